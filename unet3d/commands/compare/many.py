"""Many results in one table: ranked, or by date."""

from __future__ import annotations

from unet3d.commands.compare import listing, measure, rows, runs
from unet3d.commands.compare.listing import Listing
from unet3d.commands.compare.rows import Row
from unet3d.commands.compare.runs import Side
from unet3d.commands.compare.sides import Found
from unet3d.errors import shown

WRITERS = {"text": listing.text, "markdown": listing.markdown, "csv": listing.as_csv, "json": listing.as_json}


def compare(found: Found, form: str, history: bool, anyway: bool, limit: float | None) -> tuple[str, list[tuple[bool, str]]]:
    """The table in a format, and with a limit for each result whether it fails and why."""
    if history:
        return _written(_history(found), form), []
    base = found.base or (found.sides[0] if limit is not None or len(found.sides) == 2 else None)
    table = rows.ranked(found.sides, base or (found.own[0] if found.own else None), anyway)
    for row in table:
        row.own = any(row.side is side for side in found.own)
    first = _row_of(table, base) if base else table[0]
    rows.note_differences(table, first)
    if base:
        rows.stand_against(table, first)
    gates = [] if limit is None else [measure.gate(row.name, row.ratios["throughput"], limit) for row in table if row.ratios]
    ranked = [row for row in table if row.place is not None]
    workload = ", ".join(f"{name} {value}" for name, value in runs.identity(first.doc).items() if value is not None)
    title = f"{len(ranked)} of {len(table)} results ranked by throughput; {workload}"
    notes = [*(line for _, line in gates), *found.notes]
    if base:
        notes.append(_of_intervals(table))
    if found.own:
        notes.append("* your own")
    return _written(Listing(title, table, notes=notes), form), gates


def _history(found: Found) -> Listing:
    table = rows.history(found.sides)
    slower = [row.name for row in table if rows.regression(row)]
    notes = [f"{len(slower)} regressions beyond noise: {', '.join(slower)}" if slower else "no regression beyond noise"]
    if several := rows.namesakes(table):
        names = ", ".join(map(shown, several))
        notes.append(f"several machines of one name, not compared (host, instructions or memory differ): {names}")
    title = f"{sum(len(row.side.docs) for row in table)} results by machine and date, each against the one before it"
    return Listing(title, table, True, [*notes, *found.notes, _of_intervals(table)])


def _of_intervals(table: list[Row]) -> str:
    if all(len(row.side.docs) == 1 for row in table):
        return "Intervals are of the calls within one run; runs differ by more than that, so repeat them before you conclude."
    return "Intervals of results with several runs hold how much runs differ."


def _row_of(table: list[Row], side: Side) -> Row:
    return next(row for row in table if row.side is side)


def _written(given: Listing, form: str) -> str:
    if form == "html":
        from unet3d.commands.compare import page

        return page.html(given)
    return WRITERS[form](given)
