"""Results beside the first of them, figure by figure, as text for a terminal or as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

from unet3d.commands.compare import escape, measure, runs
from unet3d.commands.compare.runs import Side
from unet3d.results.bootstrap import CONFIDENCE, Ratio
from unet3d.results.console import fraction
from unet3d.results.schema import dice_of

ROWS = (
    ("throughput", "volumes/s", True),
    ("throughput_with_overhead", "with overhead", True),
    ("mean", "mean, ms", False),
    ("p50", "p50, ms", False),
    ("p90", "p90, ms", False),
)
# Of a head and rows of cells.
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
LONGEST = 60  # characters of a value in a table of differences
WIDTH = 80  # of text


def compare(base: Side, others: Sequence[Side], limit: float | None, markdown: bool) -> tuple[str, list[tuple[bool, str]]]:
    """The table, and with a limit for each of the others whether it fails and why."""
    ratios = [measure.ratios(base, other) for other in others]
    problems = {other.name: runs.not_comparable(base, other) for other in others}
    gates = (
        []
        if limit is None
        else [gate(other.name, ratio["throughput"], limit) for other, ratio in zip(others, ratios, strict=True)]
    )
    return render(base, others, ratios, problems, gates, markdown), gates


def gate(name: str, ratio: Ratio, limit: float) -> tuple[bool, str]:
    """Whether a side fails --fail-if-slower, and the line that says why."""
    slower, name = 1 - ratio.value, escape.text(name)
    if slower > limit and ratio.beyond_noise:
        return True, f"FAIL: {name} is slower by {slower:.1%}, more than {limit:.1%} and beyond noise"
    if slower > limit:
        return False, (
            f"PASS, but too noisy to tell: {name} is slower by {slower:.1%}, more than {limit:.1%}, and noise "
            "explains it; raise NUM_ITERATIONS or repeat the runs"
        )
    return False, f"PASS: {name} is not slower by more than {limit:.1%} (throughput {ratio.value - 1:+.1%})"


def render(
    base: Side,
    others: Sequence[Side],
    ratios: Sequence[Mapping[str, Ratio]],
    problems: Mapping[str, Sequence[str]],
    gates: Sequence[tuple[bool, str]],
    markdown: bool,
) -> str:
    """Everything that `compare` prints."""
    table = _markdown if markdown else _plain

    def heading(text: str) -> str:
        return f"### {escape.markdown(text)}" if markdown else escape.text(text)

    names = _short_names([base, *others], 24 if markdown else 8)
    parts = []
    for index, (other, sure) in enumerate(zip(others, ratios, strict=True), start=1):
        parts.append(heading(f"{names[index]} against {names[0]}"))
        parts += [_strong(f"NOT COMPARABLE: {reason}", markdown) for reason in problems[other.name]]
        rows = [
            [
                text,
                f"{base.value(metric):.5g}",
                f"{other.value(metric):.5g}",
                f"{sure[metric].value:.3f}",
                measure.interval(sure[metric]),
                measure.verdict(sure[metric], more),
            ]
            for metric, text, more in ROWS
        ]
        parts.append(table(["", names[0], names[index], "ratio", f"{CONFIDENCE:.0%} interval", "verdict"], rows))
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
            parts.append(table(["", names[0], names[index], "more by", f"{CONFIDENCE:.0%} interval", "verdict"], rows))
    if gates:
        parts.append("\n".join(_strong(text, markdown) for _, text in gates))
    parts += _differences([base, *others], names, markdown, heading)
    parts += _trust([base, *others], names, markdown)
    return "\n\n".join(parts)


def _differences(sides: Sequence[Side], names: Sequence[str], markdown: bool, heading: Callable[[str], str]) -> list[str]:
    rows = [[name, *(_cut(value) for value in values)] for name, values in runs.differing(sides)]
    if not rows:
        return ["Settings, software and machine are the same."]
    if markdown:
        return [heading("What differs"), _markdown(["", *names], rows)]
    lines = [line for name, *values in rows for line in _wrapped(f"{name}: {' | '.join(values)}", "  ")]
    return [f"What differs ({escape.text(' | '.join(names))})\n" + "\n".join(lines)]


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(escape.text(line, 1000), WIDTH, subsequent_indent=indent)


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
    if len(set(last)) == len(last) and all(0 < len(escape.text(name)) <= longest for name in last):
        return last
    return [chr(ord("A") + index) if index < 26 else str(index) for index in range(len(sides))]


def _dice(side: Side, region: str) -> str:
    accuracy = side.docs[0]["accuracy"]
    return fraction(dice_of(accuracy, region) if accuracy else None)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _strong(text: str, markdown: bool) -> str:
    return f"**{escape.markdown(text, 1000)}**" if markdown else "\n".join(_wrapped(text, "  "))


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[escape.text(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(escape.markdown, cells)) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])
