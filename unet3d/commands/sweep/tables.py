"""The ranked table of a sweep: on the console, in Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from unet3d import columns
from unet3d.commands import escape
from unet3d.errors import shown
from unet3d.results.schema import Results, Statistics

Row = dict[str, Any]
LONGEST_COMMAND = 10_000  # characters


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


# What a configuration's results say, under the names of the CSV and JSON: (name, column's heading, how it is shown).
FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("throughput_img_per_s", "img/s", lambda value: f"{value:.4g}"),
    ("latency_p50_ms", "p50 ms", milliseconds),
    ("latency_p90_ms", "p90 ms", milliseconds),
    ("latency_p99_ms", "p99 ms", milliseconds),
    ("tflop_per_s", "TFLOP/s", lambda value: f"{value:.3g}"),
    ("peak_host_gib", "host GiB", lambda value: f"{value:.2f}"),
    ("peak_device_gib", "device GiB", lambda value: f"{value:.2f}"),
    ("relative_error", "error against fp32", lambda value: f"{value:.2g}"),
    ("label_agreement", "same labels", lambda value: f"{value:.2%}"),
    ("others_cpu_share", "CPU taken by others", lambda value: f"{value:.0%}"),
    ("dice", "Dice", lambda value: f"{value:.4f}"),
    ("dice_minus_fp32", "Dice − fp32", lambda value: f"{value:+.4f}"),
)


def figures(document: Results) -> Row:
    """The row's figures from the results.json of a run that was finished; None where it has no such figure."""
    stats, memory = cast(Statistics, document["statistics"]), document["memory"]
    check, accuracy = document["check"], document["accuracy"]
    dice = accuracy["total"] if accuracy else None
    exact = accuracy["fp32"].get("total") if accuracy and "fp32" in accuracy else None
    return {
        "throughput_img_per_s": stats["throughput"],
        "latency_p50_ms": stats["p50"],
        "latency_p90_ms": stats["p90"],
        "latency_p99_ms": stats["p99"],
        "tflop_per_s": stats["tflops"],
        "peak_host_gib": _gib(memory.get("peak_host_bytes")),
        "peak_device_gib": _gib(memory.get("peak_device_bytes")),
        "relative_error": check and check["relative_error"],
        "label_agreement": check and check["label_agreement"],
        "others_cpu_share": others_cpu_share(document),
        "dice": dice,
        "dice_minus_fp32": None if dice is None or exact is None else dice - exact,
        "calls": stats["calls"],
        "engine": document["effective"].get("engine"),
        "precision": document["effective"].get("precision"),
        "warnings": [warning["name"] for warning in document["warnings"]],
    }


def _gib(count: int | None) -> float | None:
    return None if count is None else count / 2**30


def others_cpu_share(document: Results) -> float | None:
    """Share of its CPUs' time that other work took while a run was measured; None where the run did not see it.

    Times under more than a few percent are not the machine's.
    """
    disturbance = document.get("disturbance")
    return disturbance["others_share"] if disturbance else None


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Measured rows by throughput, each with its rank and its Dice against fp32; the others after them."""
    measured = sorted((row for row in rows if row["status"] == "measured"), key=lambda row: -row["throughput_img_per_s"])
    exact = next((row["dice"] for row in measured if row["precision"] == "fp32" and row["dice"] is not None), None)
    for rank, row in enumerate(measured, start=1):
        row["rank"] = rank
        if exact is not None and row["dice"] is not None and row["dice_minus_fp32"] is None:
            row["dice_minus_fp32"] = row["dice"] - exact
    return measured + [row for row in rows if row["status"] != "measured"]


def winners(rows: Sequence[Row]) -> dict[str, Row]:
    """The measured row of lowest median latency and the one of highest throughput; empty when none was measured."""
    measured = [row for row in rows if row["status"] == "measured"]
    if not measured:
        return {}
    return {
        "lowest latency": min(measured, key=lambda row: row["latency_p50_ms"]),
        "highest throughput": max(measured, key=lambda row: row["throughput_img_per_s"]),
    }


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of the measured rows, without the columns that no row has a figure for."""
    measured = [row for row in rows if row["status"] == "measured"]
    known = [figure for figure in FIGURES if any(row[figure[0]] is not None for row in measured)]
    body = [
        [str(row["rank"]), row["name"], *("–" if row[name] is None else show(row[name]) for name, _, show in known)]
        for row in measured
    ]
    return ["", "configuration", *(heading for _, heading, _ in known)], body


def console(document: Mapping[str, Any], width: int | None = None) -> list[str]:
    """Lines for a terminal, those of the table at most `width` characters long."""
    head, body = cells(document["rows"])
    # The rank stands before the name, which `columns` puts on the left.
    rows = [[f"{rank}  {name}", *figures_] for rank, name, *figures_ in body]
    table = columns.table([head[1], *head[2:]], rows, width) if body else []
    return table + [""] + notes(document)


def notes(document: Mapping[str, Any]) -> list[str]:
    """What failed, what was left out and the winning commands, a line each."""
    lines = [
        f"{row['status']}: {row['name']}: {shown(row['reason'], 1000)}"
        for row in document["rows"]
        if row["status"] != "measured"
    ]
    lines += [f"left out: {names}: {reason}" for reason, names in by_reason(document["left_out"]).items()]
    lines += [f"WARNING[{warning}]: {names}" for warning, names in warned(document["rows"]).items()]
    for what, winner in document["winners"].items():
        lines += [f"{what}: {winner['name']}", f"  {winner['command']}"]
    return lines


def warned(rows: Sequence[Row]) -> dict[str, str]:
    """Warnings of the runs, each with the configurations that have it."""
    measured = [row for row in rows if row["status"] == "measured"]
    names = dict.fromkeys(warning for row in measured for warning in row["warnings"])
    by_warning = {warning: [row["name"] for row in measured if warning in row["warnings"]] for warning in names}
    return {
        warning: "all configurations" if len(those) == len(measured) else ", ".join(those)
        for warning, those in by_warning.items()
    }


def by_reason(left_out: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The configurations that were left out, those of one reason together: the first one's name and how many more."""
    grouped: dict[str, list[str]] = {}
    for item in left_out:
        grouped.setdefault(item["reason"], []).append(item["name"])
    return {reason: names[0] + (f" and {len(names) - 1} more" if names[1:] else "") for reason, names in grouped.items()}


def markdown(document: Mapping[str, Any]) -> str:
    """sweep.md."""
    head, body = cells(document["rows"])
    machine, workload = (escape.markdown(document[name], 1000) for name in ("machine", "workload"))
    lines = ["# Sweep", "", machine + ".", "", workload + ".", ""]
    if not document["complete"]:
        lines += ["Not finished: some configurations have not run yet.", ""]
    if body:
        aligned = [escape.RIGHT, escape.LEFT, *[escape.RIGHT] * (len(head) - 2)]
        lines += [*escape.markdown_table(head, body, aligned), ""]
    for what, winner in document["winners"].items():
        lines += [f"{what.capitalize()}: {winner['name']}", "", "```bash", shown(winner["command"], LONGEST_COMMAND), "```", ""]
    warnings = warned(document["rows"])
    if warnings:
        lines += [
            "Warnings (each run's results.json says more): "
            + "; ".join(escape.markdown(f"{warning}: {names}") for warning, names in warnings.items())
            + ".",
            "",
        ]
    others = [row for row in document["rows"] if row["status"] != "measured"]
    if others:
        rows = [(row["name"], row["status"], row["reason"]) for row in others]
        lines += [*escape.markdown_table(("Configuration", "", "Reason"), rows), ""]
    if document["left_out"]:
        left_out = [(names, reason) for reason, names in by_reason(document["left_out"]).items()]
        lines += [*escape.markdown_table(("Left out", "Reason"), left_out), ""]
    return "\n".join(lines)


def to_csv(document: Mapping[str, Any]) -> str:
    """sweep.csv: a line a configuration with its settings, its figures as numbers, and what was left out."""
    names = list(dict.fromkeys(name for row in document["rows"] for name in row["settings"]))
    figure_names = [name for name, _, _ in FIGURES]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "name", "status", *names, *figure_names, "calls", "warnings", "command", "reason"])
    for row in document["rows"]:
        line = [
            row.get("rank"),
            row["name"],
            row["status"],
            *(row["settings"].get(name) for name in names),
            *(row.get(name) for name in figure_names),
            row.get("calls"),
            " ".join(row.get("warnings", [])),
            row.get("command"),
            row.get("reason"),
        ]
        writer.writerow(map(escape.csv_cell, line))
    for item in document["left_out"]:
        blank = [None] * (len(names) + len(figure_names) + 3)
        writer.writerow(map(escape.csv_cell, [None, item["name"], "left out", *blank, item["reason"]]))
    return text.getvalue()
