"""Values of results, which others may have written, as part of a text, of Markdown and of CSV; HTML is its template's."""

from __future__ import annotations

import re

from unet3d.errors import shown

LONGEST = 200


def text(value: object, limit: int = LONGEST) -> str:
    """One printable line of at most `limit` characters; nothing in it that a terminal obeys."""
    return shown(value, limit)


def markdown(value: object, limit: int = LONGEST) -> str:
    """The same as part of a cell of a Markdown table: no markup, no HTML, no end of the cell."""
    escaped = re.sub(r"([\\`*_\[\]{}|~#!])", r"\\\1", text(value, limit))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_cell(value: object) -> object:
    """The same as a cell of CSV: a number as it is, and no text that a spreadsheet takes for a formula."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    cell = text(value, 2000)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell
