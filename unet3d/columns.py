"""Tables of text that never wrap: columns are cut, then left out, until a row fits."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = 2
SHORTEST = 10  # characters that a column of words keeps before others are left out


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None, words: Sequence[int] = (0,)
) -> list[str]:
    """Lines of a table, the head first, none longer than `width` characters; None: as wide as it is.

    words: columns of words, on the left and cut where room is short; the others hold numbers, on the right. Numbers that
    have no room are left out from the last column on, and a line says which.
    """
    kept = list(range(len(head)))
    widths = [max(len(row[column]) for row in [head, *rows]) for column in kept]
    least = [min(width_, SHORTEST) if column in words else width_ for column, width_ in enumerate(widths)]

    def taken(each: Sequence[int]) -> int:
        return sum(each[column] for column in kept) + GAP * (len(kept) - 1)

    if width is not None:
        numbers = [column for column in kept if column not in words]
        while taken(least) > width and numbers:
            kept.remove(numbers.pop())
        while taken(widths) > width and max(widths[column] for column in words) > 1:
            widths[max(words, key=lambda column: widths[column])] -= 1
    lines = [
        (" " * GAP)
        .join(
            cut(row[column], widths[column]).ljust(widths[column]) if column in words else row[column].rjust(widths[column])
            for column in kept
        )
        .rstrip()
        for row in [head, *rows]
    ]
    if missing := [head[column] for column in range(len(head)) if column not in kept]:
        lines += paragraph(f"No room for: {', '.join(missing)}", width)
    return lines


def cut(text: str, width: int) -> str:
    """The text, its end replaced by … where it is longer than `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def paragraph(text: str, width: int | None, indent: str = "  ") -> list[str]:
    """Lines of at most `width` characters, those after the first indented; paths and words are not broken."""
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
