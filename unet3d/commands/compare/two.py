"""Two results beside each other, figure by figure, as text for a terminal or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from unet3d import columns
from unet3d.commands import escape
from unet3d.commands.compare import measure, runs
from unet3d.commands.compare.runs import Side
from unet3d.errors import shown
from unet3d.results.bootstrap import CONFIDENCE
from unet3d.results.console import fraction
from unet3d.results.schema import dice_of

ROWS = (
    ("throughput", "volumes/s", True),
    ("throughput_with_overhead", "with overhead", True),
    ("mean", "mean, ms", False),
    ("p50", "p50, ms", False),
    ("p90", "p90, ms", False),
)
LONGEST = 60  # characters of a value in a table of differences
WIDTH = 80  # of text


def compare(base: Side, other: Side, limit: float | None, markdown: bool) -> tuple[str, list[tuple[bool, str]]]:
    """The tables, and with a limit whether the other side fails it and why."""
    ratios = measure.ratios(base, other)
    gates = [] if limit is None else [measure.gate(other.name, ratios["throughput"], limit)]
    table = _markdown if markdown else _plain

    def heading(text: str) -> str:
        return f"### {escape.markdown(text)}" if markdown else shown(text)

    names = _short_names([base, other], 24 if markdown else 8)
    parts = [heading(f"{names[1]} against {names[0]}")]
    parts += [_strong(f"NOT COMPARABLE: {reason}", markdown) for reason in runs.not_comparable(base, other)]
    rows = [
        [
            text,
            f"{base.value(metric):.5g}",
            f"{other.value(metric):.5g}",
            f"{ratios[metric].value:.3f}",
            measure.interval(ratios[metric]),
            measure.verdict(ratios[metric], more),
        ]
        for metric, text, more in ROWS
    ]
    parts.append(table(["", *names, "ratio", f"{CONFIDENCE:.0%} interval", "verdict"], rows))
    rows = [
        [
            f"Dice {region}",
            _dice(base, region),
            _dice(other, region),
            f"{mean:+.4f}",
            f"{low:+.4f} to {high:+.4f}",
            "within noise" if low <= 0 <= high else "higher" if mean > 0 else "lower",
        ]
        for region, (mean, low, high) in measure.dice(base, other).items()
    ]
    if rows:
        parts.append(table(["", *names, "more by", f"{CONFIDENCE:.0%} interval", "verdict"], rows))
    parts += [_strong(text, markdown) for _, text in gates]
    parts += _differences([base, other], names, markdown, heading)
    parts += _trust([base, other], names, markdown)
    return "\n\n".join(parts), gates


def _differences(sides: Sequence[Side], names: Sequence[str], markdown: bool, heading: Callable[[str], str]) -> list[str]:
    rows = [[name, *(columns.cut(value, LONGEST) for value in values)] for name, values in runs.differing(sides)]
    if not rows:
        return ["Settings, software and machine are the same."]
    if markdown:
        return [heading("What differs"), _markdown(["", *names], rows)]
    lines = [line for name, *values in rows for line in _wrapped(f"{name}: {' | '.join(values)}", "  ")]
    return [f"What differs ({shown(' | '.join(names))})\n" + "\n".join(lines)]


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(shown(line, 1000), WIDTH, subsequent_indent=indent)


def _trust(sides: Sequence[Side], names: Sequence[str], markdown: bool) -> list[str]:
    lines = []
    for side, name in zip(sides, names, strict=True):
        warnings = list(dict.fromkeys(warning["name"] for doc in side.docs for warning in doc["warnings"]))
        repeats = f"{len(side.docs)} runs, " if len(side.docs) > 1 else ""
        lines.append(f"{name}: {side.name}, {repeats}{side.calls} calls; warnings: {', '.join(warnings) or 'none'}")
    if all(len(side.docs) == 1 for side in sides):
        lines.append(
            "Intervals are of the calls within one run. Runs differ by more than that: repeat them and name the "
            "repeats divided by commas."
        )
    elif min(len(side.docs) for side in sides) < 3:
        lines.append("With fewer than three runs on a side the intervals are wide: repeat them more often.")
    if markdown:
        return ["\n".join(f"- {escape.markdown(line, 1000)}" for line in lines)]
    return ["\n".join(wrapped for line in lines for wrapped in _wrapped(f"- {line}", "  "))]


def _short_names(sides: Sequence[Side], longest: int) -> list[str]:
    """Last parts of the paths where these tell the sides apart and are short, letters otherwise."""
    last = [side.name.split(",")[0].removesuffix("/results.json").rstrip("/").rpartition("/")[2] for side in sides]
    if len(set(last)) == len(last) and all(0 < len(shown(name)) <= longest for name in last):
        return last
    return [chr(ord("A") + index) if index < 26 else str(index) for index in range(len(sides))]


def _dice(side: Side, region: str) -> str:
    accuracy = side.docs[0]["accuracy"]
    return fraction(dice_of(accuracy, region) if accuracy else None)


def _strong(text: str, markdown: bool) -> str:
    return f"**{escape.markdown(text, 1000)}**" if markdown else "\n".join(_wrapped(text, "  "))


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[shown(cell) for cell in row] for row in [head, *rows]]
    return "\n".join(columns.table(lines[0], lines[1:], words=(0, len(head) - 1)))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(escape.markdown_table(head, rows))
