"""Values of results, which others may have written, as part of Markdown and of CSV; HTML is its template's.

As part of a text they are `unet3d.errors.shown`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from unet3d.errors import shown

LONGEST, LONGEST_CELL = 200, 2000
LEFT, RIGHT = "---", "---:"


def markdown(value: object, limit: int = LONGEST) -> str:
    """One printable line as part of a cell of a Markdown table: no markup, no HTML, no end of the cell."""
    escaped = re.sub(r"([\\`*_\[\]{}|~#!])", r"\\\1", shown(value, limit))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]], aligned: Sequence[str] | None = None) -> list[str]:
    """Lines of a Markdown table, every cell escaped. aligned: LEFT or RIGHT of each column, by default LEFT of all."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [
        line([markdown(cell) for cell in head]),
        line(aligned or [LEFT] * len(head)),
        *(line([markdown(cell) for cell in row]) for row in rows),
    ]


def csv_cell(value: object) -> object:
    """The same as a cell of CSV: a number as it is, and no text that a spreadsheet takes for a formula."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    cell = shown(value, LONGEST_CELL)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell
