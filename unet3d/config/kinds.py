"""Kinds of value that a setting takes: each turns text into a value or raises ValueError saying what is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

YES, NO = ("yes", "true", "1", "on"), ("no", "false", "0", "off")


def choice(*allowed: str) -> Callable[[str], str]:
    """One of `allowed`, whatever the case; returned as declared."""
    by_folded = {value.casefold(): value for value in allowed}

    def parse(text: str) -> str:
        try:
            return by_folded[text.strip().casefold()]
        except KeyError:
            raise ValueError(", ".join(allowed)) from None

    return parse


def yes_no(text: str) -> bool:
    """yes/no, and what people write for them: true/false, on/off, 1/0."""
    folded = text.strip().casefold()
    if folded in YES:
        return True
    if folded in NO:
        return False
    raise ValueError("yes, no (or True, False)")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number not below `least` and, where given, not above `most`."""

    def parse(text: str) -> int:
        allowed = f"a whole number from {least} to {most}" if most is not None else f"a whole number of at least {least}"
        stripped = text.strip()
        if not (stripped.isascii() and stripped.isdigit() and len(stripped) <= 9):
            raise ValueError(allowed)
        number = int(stripped)
        if number < least or (most is not None and number > most):
            raise ValueError(allowed)
        return number

    return parse


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1 in ascending order, such as 1,2,4."""
    allowed = "whole numbers in ascending order that begin with 1, such as 1,2,4"
    try:
        numbers = tuple(whole_number(1)(part) for part in text.split(","))
    except ValueError:
        raise ValueError(allowed) from None
    if numbers[0] != 1 or len(numbers) < 2 or list(numbers) != sorted(set(numbers)):
        raise ValueError(allowed)
    return numbers


def endpoint(text: str) -> str:
    """host:port."""
    host, _, port = text.strip().rpartition(":")
    try:
        if not host:
            raise ValueError
        whole_number(1, 65535)(port)
    except ValueError:
        raise ValueError("host:port, such as node0:29500") from None
    return text.strip()


def count_or_all(text: str) -> int | str:
    """A whole number of at least 1, or the word all."""
    if text.strip().casefold() == "all":
        return "all"
    try:
        return whole_number(1)(text)
    except ValueError:
        raise ValueError("a whole number of at least 1, or all") from None


def shape(text: str) -> tuple[int, int, int]:
    """Three multiples of 32 such as 224,224,160: five poolings halve every axis five times."""
    allowed = "three multiples of 32, such as 224,224,160"
    try:
        numbers = tuple(whole_number(32)(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise ValueError(allowed) from None
    if len(numbers) != 3 or any(number % 32 or number > 1024 for number in numbers):
        raise ValueError(allowed + ", each at most 1024")
    if numbers == (32, 32, 32):
        # The deepest layer would have one voxel, of which instance normalisation knows no variance.
        raise ValueError(allowed + ", one of them at least 64")
    return numbers


def folder(text: str) -> Path:
    """A folder's path; `~` is expanded, existence is looked at where it is used."""
    if not text.strip():
        raise ValueError("the path of a folder")
    return path(text)


def path(text: str) -> Path:
    """A path that the file system and the results can hold; `~` is expanded."""
    if not text.isprintable():  # neither control characters nor bytes that are no UTF-8, which no result file could hold
        raise ValueError("a path of printable characters")
    try:
        parsed = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("a path whose ~ is a user of this machine") from None
    if len(os.fsencode(parsed)) > 4000 or any(len(os.fsencode(part)) > 255 for part in parsed.parts):
        raise ValueError("a path of at most 4000 bytes, each name in it of at most 255")
    return parsed


def text(value: str) -> str:
    """Any text but an empty one."""
    if not value.strip():
        raise ValueError("a path or one of the named values")
    path(value.strip())
    return value.strip()


def show(value: object) -> str:
    """A value as a user would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ",".join(str(part) for part in value)
    return str(value)
