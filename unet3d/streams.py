"""The standard streams of this process: open, fit for any text in any encoding, and without libraries' noise.

`prepare` is for a process of our own, not for a Python that imports the package.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from unet3d.errors import ExitCode, shown

# What is written where a console's encoding lacks the character; others are escaped.
ASCII = {
    "±": "+/-",
    "×": "x",
    "…": "...",
    "→": "->",
    "–": "-",
    "—": "-",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "µ": "u",
    "≤": "<=",
    "≥": ">=",
    "·": "*",
    "²": "^2",
    "³": "^3",
    "°": " degrees",
    "−": "-",
}
ERRORS = "unet3d-ascii"
_noise: int | None = None  # where libraries' messages are kept until a log takes them; None before `prepare`


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler for codecs: the ASCII spelling of what the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII.get(letter) or _escaped(letter) for letter in lacking), error.end


def _escaped(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ERRORS, in_ascii)


class OutputError(OSError):
    """Standard output is there, but does not take what is printed: a full device, a terminal that is gone."""


class OutputStream(io.TextIOWrapper):
    """Standard output whose errors are told from those of other files; one that its reader has closed is a BrokenPipeError."""

    def write(self, text: str) -> int:
        with _own_errors():
            return super().write(text)

    def flush(self) -> None:
        with _own_errors():
            super().flush()


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from None


class ErrorStream(io.TextIOWrapper):
    """Standard error that cannot fail: there is nowhere to tell that it cannot be written."""

    def __init__(self, descriptor: int, encoding: str):
        raw: Any = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(raw, encoding=encoding, errors=ERRORS, write_through=True)

    def write(self, text: str) -> int:
        """Write, or drop what a closed pipe or a full device does not take."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is ever held back."""
        with contextlib.suppress(OSError):
            super().flush()


def prepare() -> None:
    """Open what is closed, take care of encodings, and put libraries' noise aside.

    Noise is what goes to descriptor 2 past our own `sys.stderr`: C++, child processes, and Python's warnings and logging.
    With UNET3D_TRACEBACK=1 it stays where it was.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    encoding = sys.stdout.encoding if sys.stdout is not None else "utf-8"
    sys.stdout = OutputStream(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding=encoding, errors=ERRORS, line_buffering=os.isatty(1)
    )
    encoding = sys.stderr.encoding if sys.stderr is not None else "utf-8"
    # A library's warning must neither end a run nor disturb its console, whatever PYTHONWARNINGS says.
    os.environ.pop("PYTHONWARNINGS", None)
    sys.warnoptions.clear()
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    if os.environ.get("UNET3D_TRACEBACK"):
        sys.stderr = ErrorStream(2, encoding)
        return
    sys.stderr = ErrorStream(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3), encoding)
    global _noise
    _noise = os.memfd_create("noise")
    os.dup2(_noise, 2)
    aside = noise()
    logging.lastResort = logging.StreamHandler(aside)
    logging.lastResort.setLevel(logging.WARNING)
    warnings.showwarning = _warn


def _open_if_closed(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        # Otherwise the next file that is opened would get this number, and with it what others write there.
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"{filename}:{lineno}: {category.__name__}: {shown(message)}", file=file or noise())


def noise() -> TextIO:
    """Where libraries' messages go; `sys.stderr` where they are not put aside."""
    return sys.stderr if _noise is None else ErrorStream(2, "utf-8")


def noise_into(log: int) -> None:
    """Put the noise so far, and from now on all of it, into an open file (its descriptor)."""
    if _noise is None:
        return
    with contextlib.suppress(OSError):  # a full disk: the log's own lines will tell
        os.lseek(_noise, 0, os.SEEK_SET)
        while piece := os.read(_noise, 1 << 20):
            os.write(log, piece)
    os.dup2(log, 2)


def error_descriptor() -> int:
    """Standard error as it was given to this process, for child processes that speak to the user themselves."""
    return sys.stderr.fileno() if isinstance(sys.stderr, ErrorStream) else 2


def finish(code: int) -> int:
    """Write what is left to be written; returns the exit code, which a standard output that is full or closed can change."""
    try:
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        return told_of_output(error) if code == ExitCode.DONE else code
    return code


def drop_output() -> None:
    """Give up a standard output that cannot be written: what is held back would be tried, and fail, again and again.

    One that is not of `prepare` is its owner's.
    """
    if not isinstance(sys.stdout, OutputStream):
        return
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
    sys.stdout.flush()


def told_of_output(error: OSError) -> int:
    """The exit code where standard output does not take what is printed: quiet where its reader has gone."""
    if isinstance(error, BrokenPipeError):
        return ExitCode.PIPE_CLOSED
    print(f"ERROR: standard output cannot be written ({error.strerror}); free some space or send it elsewhere", file=sys.stderr)
    return ExitCode.BAD_INPUT
