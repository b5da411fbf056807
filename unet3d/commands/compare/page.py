"""Rows of results as one HTML page that loads nothing: sorted and filtered by a script of its own, which its policy names."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from unet3d.commands.compare import charts, listing, rows
from unet3d.commands.compare.listing import FIGURES, Listing
from unet3d.commands.compare.rows import Row
from unet3d.errors import shown
from unet3d.results import report
from unet3d.results.bootstrap import CONFIDENCE
from unet3d.results.schema import changes

FILTERS = (("machine", "Machine"), ("precision", "Precision"), ("torch", "PyTorch"))


def html(given: Listing) -> str:
    """The page. Whatever comes from results is escaped by the template, the figures' texts by Matplotlib."""
    from markupsafe import Markup

    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8")
    compared = any(row.ratios for row in given.rows)
    return (
        report.templates(here)
        .get_template("page.html")
        .render(
            title=shown(given.title, 400),
            history=given.history,
            notes=[shown(note, 1000) for note in given.notes],
            figures=[{**figure, "svg": Markup(figure["svg"])} for figure in _figures(given)],
            filters=_filters(given.rows),
            headings=_headings(given.history, compared),
            rows=[_row(row, given.history, compared) for row in given.rows],
            how=f"Ratios are of throughput, with the {CONFIDENCE:.0%} interval of the raw samples." if compared else "",
            script=Markup(script),
            script_sha256=base64.b64encode(sha256(script.encode()).digest()).decode(),
        )
    )


def _figures(given: Listing) -> list[dict[str, str]]:
    drawn = [
        (
            charts.over_time(given.rows) if given.history else None,
            "Throughput over time",
            "Lines join each result with the one that it is compared with.",
        ),
        (
            charts.against(given.rows, "joules_per_volume", "J per volume", "energy"),
            "Throughput against energy",
            "Up and to the left is better. Energy is of the device's own counter, over the measured window.",
        ),
        (
            charts.against(given.rows, "peak_memory_gib", "peak memory, GiB", "memory"),
            "Throughput against memory",
            "Up and to the left is better. Memory is the device's, on a CPU the process's.",
        ),
    ]
    return [{"svg": svg, "title": title, "note": note} for svg, title, note in drawn if svg]


def _filters(given: Sequence[Row]) -> list[tuple[str, str, list[str]]]:
    found = [(key, heading, sorted({shown(row.values[key]) for row in given})) for key, heading in FILTERS]
    return [(key, heading, values) for key, heading, values in found if len(values) > 1]


def _headings(history: bool, compared: bool) -> list[tuple[str, str]]:
    first = [("date" if history else "#", "short"), ("result", "words"), ("machine", "words"), ("ran", "words")]
    figures = [(heading, "number") for _, heading, _ in FIGURES]
    ratio = [("ratio", "short"), ("verdict", "words")] if compared else []
    date = [] if history else [("date", "short")]
    return (
        first
        + figures[:1]
        + ratio
        + figures[1:]
        + date
        + [("commit", "short"), ("PyTorch", "short"), ("driver", "short"), ("differs", "words"), ("warnings", "words")]
    )


def _row(row: Row, history: bool, compared: bool) -> dict[str, Any]:
    values = row.values
    name = [("NOT COMPARABLE", shown(problem)) for problem in row.problems]
    cells = [
        _cell(values["date"], "short") if history else _cell(row.place, "short"),
        _cell(row.name, "words", more=name, mark="problem" if name else ""),
        _cell(values["machine"], "words"),
        _cell(listing.what(row), "words"),
    ]
    figures = [_cell(values[key], "number", listing.figure(row, key, show)) for key, _, show in FIGURES]
    cells.append(figures[0])
    if compared:
        ratio = row.ratios["throughput"] if row.ratios else None
        slower = rows.regression(row)
        cells.append(_cell(ratio and ratio.value, "short", listing.ratio_text(ratio) if ratio else "–"))
        cells.append(_cell(listing.mark(row, history), "words", mark={True: "worse", False: "better", None: ""}[slower]))
    cells += figures[1:] + ([] if history else [_cell(values["date"], "short")])
    commit = f"{str(values['commit'])[:8]}{changes(row.doc['benchmark'])}" if values["commit"] else "–"
    cells.append(_cell(values["commit"], "short", commit))
    cells += [_cell(values["torch"], "short"), _cell(values["driver"], "short")]
    differs = [(shown(fact), shown(value)) for fact, value in row.differs]
    cells.append(_cell(len(differs) or None, "words", f"in {len(differs)}" if differs else "–", more=differs))
    cells.append(_cell(values["warnings"] or None, "words"))
    return {"cells": cells, "own": row.own, "filtered": [(key, shown(values[key])) for key, _ in FILTERS]}


def _cell(
    value: object, kind: str, told: str | None = None, more: Sequence[tuple[str, str]] = (), mark: str = ""
) -> dict[str, Any]:
    """`sort`: by what it is ordered, empty for what is not known; `more`: what unfolds."""
    known = "" if value is None else shown(value)
    text = shown(told if told is not None else known or "–")
    return {"sort": known, "shown": text, "kind": kind, "more": list(more), "mark": mark}
