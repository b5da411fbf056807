"""What a message may echo: one line, printable, of bounded length."""

import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet3d.errors import MESSAGE_LIMIT, UserError, UserErrors, shown, tell


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain ±… ü 脳", "plain ±… ü 脳"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\u202egpj.exe\u2028", r"\u202egpj.exe\u2028"),
        ("\udcff", r"\udcff"),
        (1.5, "1.5"),
        (None, "None"),
        (["\x1b"], r"['\x1b']"),
    ],
)
def test_values_stay_one_printable_line(value, expected):
    assert shown(value) == expected


def test_long_values_are_cut():
    assert shown("a" * 200) == "a" * 200
    assert shown("a" * 201) == "a" * 199 + "…"
    assert shown("\x1b" * 100) == (r"\x1b" * 50)[:199] + "…"
    assert shown("abcdef", 3) == "ab…"


def test_values_that_python_cannot_write():
    assert shown(10 ** (sys.get_int_max_str_digits() + 1)) == "int too large to be shown"


@given(st.text(st.characters()), st.integers(1, 300))
def test_any_text(text, limit):
    line = shown(text, limit)
    assert len(line) <= limit and line.isprintable()
    line.encode("utf-8")


def test_several_messages_stay_apart_on_their_way_out_of_a_process():
    assert pickle.loads(pickle.dumps(UserErrors(["first", "second"]))).messages == ["first", "second"]


@pytest.mark.parametrize("error", [UserError("a\nb\x1b[2J" + "c" * 5000), UserErrors(["a\x1b\nb", "c" * 5000])])
def test_errors_are_one_line_each_whatever_they_echo(error, capsys):
    assert tell(error) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if isinstance(error, UserErrors) else 1)
    assert all(line.startswith("ERROR: ") and line.isprintable() and len(line) <= MESSAGE_LIMIT + 10 for line in lines)
