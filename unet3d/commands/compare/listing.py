"""Rows of results as text of 80 columns, as Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from unet3d import columns, json_files
from unet3d.commands import escape
from unet3d.commands.compare import measure, rows
from unet3d.commands.compare.rows import Row
from unet3d.errors import shown
from unet3d.results.bootstrap import CONFIDENCE, Ratio
from unet3d.results.report.theme import number
from unet3d.results.schema import Value, changes

WIDTH = 80
NAME_WIDTH = 28
SHOWN_DIFFERENCES = 4

# Key of Row.values, heading, how it is shown.
FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("throughput", "volumes/s", number),
    ("throughput_with_overhead", "overhead", number),
    ("latency_p90_ms", "p90 ms", number),
    ("joules_per_volume", "J/vol", number),
    ("dice", "Dice", lambda value: f"{value:.4f}"),
    ("peak_memory_gib", "GiB", lambda value: f"{value:.1f}"),
)


@dataclass(frozen=True)
class Listing:
    """Everything that is said of many results. `notes`: lines below the table."""

    title: str
    rows: Sequence[Row]
    history: bool = False
    notes: Sequence[str] = field(default_factory=list)


def figure(row: Row, key: str, show: Callable[[float], str]) -> str:
    """A figure of a row as text, a dash where it has none."""
    value = row.values[key]
    return show(value) if isinstance(value, (int, float)) else "–"


def what(row: Row) -> str:
    """Engine, precision and what else is not the usual, in few words."""
    values = row.values
    parts = [f"{values['engine'] or 'engine unknown'} {values['precision']}"]
    if str(values["jit"]) not in ("None", "none"):
        parts.append(f"JIT {values['jit']}")
    if str(values["streams"]) not in ("1", "None"):
        parts.append(f"{values['streams']} streams")
    if str(values["batch_size"]) not in ("1", "None"):
        parts.append(f"batch {values['batch_size']}")
    if row.values["dice"] is not None:
        parts.append(f"weights: {values['weights']}")
    return ", ".join(parts)


def origin(row: Row) -> str:
    """Date and commit."""
    commit = row.values["commit"]
    known = f"{str(commit)[:8]}{changes(row.doc['benchmark'])}" if commit else "commit unknown"
    return f"{row.values['date']}, {known}"


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval."""

    def digits(value: float) -> str:
        return f"{value:.3f}" if value < 10 else f"{value:.4g}"

    if ratio.low is None or ratio.high is None:
        return digits(ratio.value)
    return f"{digits(ratio.value)} ({digits(ratio.low)} to {digits(ratio.high)})"


def mark(row: Row, history: bool) -> str:
    """The verdict on a row's throughput, a regression of a history in capitals."""
    if row.ratios is None:
        return ""
    said = measure.verdict(row.ratios["throughput"], True)
    return said.replace("worse", "REGRESSION: slower").replace("better", "faster") if history else said


def text(listing: Listing) -> str:
    """For a terminal, no line longer than WIDTH."""
    head = ["#", "result", *(heading for _, heading, _ in FIGURES)]
    table = columns.table(head, [_cells(row, listing.history) for row in listing.rows], WIDTH, words=(0, 1))
    lines = [*_wrapped(listing.title, ""), "", table[0]]
    for row, line in zip(listing.rows, table[1:], strict=False):
        lines += [line, *_below(row, listing.history)]
    for note in (*table[1 + len(listing.rows) :], *listing.notes):
        lines += ["", *_wrapped(note, "")]
    return "\n".join(lines)


def _cells(row: Row, history: bool) -> list[str]:
    place = row.values["date"] if history else "–" if row.place is None else row.place
    name = shown(("* " if row.own else "") + row.name)
    # Names of one folder differ at their ends.
    short = name if len(name) <= NAME_WIDTH else "…" + name[1 - NAME_WIDTH :]
    return [str(place), short, *(figure(row, key, show) for key, _, show in FIGURES)]


def _below(row: Row, history: bool) -> list[str]:
    lines = [f"{row.values['machine']}; {what(row)}; {origin(row)}"]
    if row.problems:
        lines.append(f"NOT COMPARABLE: {'; '.join(row.problems)}")
    if row.ratios:
        lines.append(f"{ratio_text(row.ratios['throughput'])} times {row.against}: {mark(row, history)}")
    if row.differs:
        lines.append(f"differs: {differences(row)}")
    if row.values["warnings"]:
        lines.append(f"warnings: {row.values['warnings']}")
    return [wrapped for line in lines for wrapped in _wrapped(shown(line, 400), "   ")]


def differences(row: Row) -> str:
    """The first facts in which a row differs, and how many more there are."""
    first = [f"{name} {shown(value, 40)}" for name, value in row.differs[:SHOWN_DIFFERENCES]]
    more = len(row.differs) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "  " * bool(indent))


def markdown(listing: Listing) -> str:
    """A table for a pull request or a README."""
    compared = any(row.ratios for row in listing.rows)
    head = ["date" if listing.history else "#", "result", "machine", "ran"]
    head += [heading for _, heading, _ in FIGURES]
    head += [f"ratio ({CONFIDENCE:.0%} interval)", "verdict"] * compared + ["measured", "differs"]
    body = []
    for row in listing.rows:
        cells: list[object] = [row.values["date"] if listing.history else row.place or "–", f"{'* ' * row.own}{row.name}"]
        cells += [row.values["machine"], what(row), *(figure(row, key, show) for key, _, show in FIGURES)]
        if compared:
            cells += [ratio_text(row.ratios["throughput"]), mark(row, listing.history)] if row.ratios else ["–", ""]
        cells += [origin(row), "; ".join([*(f"NOT COMPARABLE: {problem}" for problem in row.problems), differences(row)])]
        body.append(cells)
    lines = [f"**{escape.markdown(listing.title, 400)}**", "", *escape.markdown_table(head, body)]
    return "\n".join([*lines, *(line for note in listing.notes for line in ("", escape.markdown(note, 1000)))])


def _record(row: Row) -> dict[str, Value]:
    record: dict[str, Value] = {"place": row.place, "own": row.own, **row.values, "not_comparable": "; ".join(row.problems)}
    ratio = row.ratios["throughput"] if row.ratios else Ratio(float("nan"), None, None)
    known = row.ratios is not None
    record |= {
        "against": row.against,
        "ratio": ratio.value if known else None,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "beyond_noise": ratio.beyond_noise if known else None,
        "regression": rows.regression(row),
    }
    return record


def as_csv(listing: Listing) -> str:
    """One line a result, the first line naming the columns."""
    records = [{**_record(row), "differs": differences(row)} for row in listing.rows]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(records[0])
    writer.writerows([escape.csv_cell(value) for value in record.values()] for record in records)
    return out.getvalue()


def as_json(listing: Listing) -> str:
    """Everything, with all ratios and all facts that differ."""

    def ratios(row: Row) -> Mapping[str, Value] | None:
        if row.ratios is None:
            return None
        return {
            metric: {"value": ratio.value, "low": ratio.low, "high": ratio.high, "beyond_noise": ratio.beyond_noise}
            for metric, ratio in row.ratios.items()
        }

    document = {
        "title": listing.title,
        "confidence": CONFIDENCE,
        "history": listing.history,
        "rows": [{**_record(row), "ratios": ratios(row), "differs": dict(row.differs)} for row in listing.rows],
        "notes": list(listing.notes),
    }
    return json_files.text(document)
