"""Encodings and what the system refuses, told in words. Whole processes: tests/robustness/."""

import errno
import io
import os

import pytest

from unet3d import streams
from unet3d.errors import UserError, of_the_system


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", r"5 +/- 1 x 2... -> \xfc\U0001f9e0\udcff"), ("latin-1", "5 ± 1 × 2... -> ü\\U0001f9e0\\udcff")],
)
def test_what_an_encoding_lacks_is_spelt_out(encoding, expected):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors=streams.ERRORS) as stream:
        stream.write("5 ± 1 × 2… → ü🧠\udcff")
        stream.flush()
        assert raw.getvalue().decode(encoding) == expected


def test_utf_8_keeps_everything_but_lone_surrogates():
    assert "± 🧠\udcff".encode("utf-8", streams.ERRORS) == "± 🧠\\udcff".encode()


def test_standard_error_that_is_full_or_closed_says_nothing():
    with open("/dev/full", "wb", buffering=0) as full:
        print("lost", file=streams.ErrorStream(full.fileno(), "utf-8"), flush=True)
    read, write = os.pipe()
    os.close(read)
    print("lost", file=streams.ErrorStream(write, "utf-8"), flush=True)
    os.close(write)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a\nb"), 2, r"/a\\nb: No space left on device; free some space"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "Too many open files; raise ulimit -n"),
        (RuntimeError("can't start new thread"), 2, "no more threads can be started; lower THREADS"),
        (MemoryError("Unable to allocate 9 EiB"), 4, "out of memory \\(Unable to allocate 9 EiB\\)"),
    ],
)
def test_what_the_system_refuses_is_no_defect(error, code, text):
    import re

    known = of_the_system(error)
    assert known.exit_code == code and re.match(text, str(known))


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), OSError(errno.ENOTCONN, "x"), UserError("x")])
def test_other_errors_stay_what_they_are(error):
    assert of_the_system(error) is None
