"""SCALING=1,2,4: the same run on so many devices or groups of cores one after the other, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from unet3d import columns, json_files, places, progress, signals, streams
from unet3d.config.kinds import show
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Asked
from unet3d.errors import Stopped, UserErrors
from unet3d.files import move_aside
from unet3d.locks import FolderLock
from unet3d.planning import resolve
from unet3d.results import reader
from unet3d.results.document import plain
from unet3d.results.schema import Results, Statistics

# Chosen for each run; what the user gave for them, if anything, is the whole's.
CHOSEN = ("scaling", "devices", "instances", "threads", "output_dir", "multi_tile")
STOP_S = 60


@dataclass(frozen=True)
class Point:
    """One run: ranks, and the units (cores of a CPU, else devices) that they have together."""

    ranks: int
    units: int
    unit: str

    @property
    def name(self) -> str:
        units = self.units // self.ranks
        return f"{self.ranks} x {units} {self.unit}{'s' if units > 1 else ''}"


class Row(TypedDict):
    """A row of scaling.json: throughputs in volumes a second, times in ms; over the first row `speed_up` and
    `efficiency`."""

    name: str
    ranks: int
    units: int
    unit: str
    throughput: float
    throughput_with_overhead: float
    mean: float
    p90: float
    calls: int
    peak_host_bytes: int
    warnings: list[str]
    results: str
    speed_up: NotRequired[float]
    efficiency: NotRequired[float]


def points(counts: Sequence[int], platform: str, threads: int) -> list[Point]:
    """What to run. On a CPU every rank has the cores that it has when their number is largest; then one rank has all."""
    if platform != "CPU":
        return [Point(count, count, "device") for count in counts]
    each = threads // counts[-1]
    return [*(Point(count, count * each, "core") for count in counts), Point(1, counts[-1] * each, "core")]


def run(asked: Asked, argv: Sequence[str]) -> int:
    """Carry out the runs, print the table, write OUTPUT_DIR/scaling.json; returns the first exit code that is not 0.

    Raises:
        UserErrors: where the machine has not as many devices or cores.
    """
    problems = [
        f"{BY_NAME[name].variable} with SCALING is not possible; SCALING chooses it, leave it out"
        for name in ("devices", "instances")
        if asked.value(name) is not None
    ]
    if asked.nnodes > 1:
        problems.append("NNODES with SCALING is not possible; start one run for each number of nodes")
    if problems:
        raise UserErrors(problems)
    counts = asked.scaling or (1,)
    most = counts[-1]
    single = replace(asked, multi_tile=False, scaling=None)
    alone = resolve.complete(single).settings
    if alone.platform != "CPU":
        # Refuses more devices than there are before the first run has taken its time.
        resolve.complete(replace(single, devices=most))
    elif most > alone.threads:
        raise UserErrors([f"SCALING={show(counts)} needs {most} cores, there are {alone.threads}; lower it or raise THREADS"])
    folder = asked.output_dir
    # Each run has an OUTPUT_DIR of its own, which is not to be filled with the same preprocessed cases again.
    store = [f"--preprocessed-dir={alone.preprocessed_dir}"] if "preprocessed_dir" in alone.reasons else []
    with FolderLock(folder, "OUTPUT_DIR"):
        signals.by_exception()
        move_aside(folder / "scaling.json")
        return _carry_out(
            points(counts, alone.platform, alone.threads),
            folder,
            ["predict.py", *argv],
            lambda point, target: [*_command(asked, point, target), *store],
        )


def _command(asked: Asked, point: Point, target: Path) -> list[str]:
    words = [
        f"{BY_NAME[name].flag}={show(value)}"
        for name, value in asked.values().items()
        if asked.sources[name] == "flag" and name not in CHOSEN
    ]
    words += (
        [f"--instances={point.ranks}", f"--threads={point.units}"] if point.unit == "core" else [f"--devices={point.ranks}"]
    )
    return [*places.command(), *words, f"--output-dir={target}"]


def _carry_out(todo: Sequence[Point], folder: Path, command: list[str], command_of: Callable[[Point, Path], list[str]]) -> int:
    rows: list[Row] = []
    environment = {
        name: text for name, text in os.environ.items() if name not in {BY_NAME[setting].variable for setting in CHOSEN}
    }
    code, reason = 0, None
    for point in todo:
        target = folder / "scaling" / point.name.replace(" ", "")
        print(f"Scaling: {point.name}", flush=True)
        try:
            code = _child(command_of(point, target), environment)
            reason = f"{point.name} ended with exit code {code}" if code else None
        except Stopped as stop:
            code, reason = stop.exit_code, f"stopped by {stop.name}"
        if code:
            break
        rows.append(_row(point, reader.read(target / "results.json"), target))
    efficiency(rows)
    told = {"schema_version": 1, "complete": reason is None, "incomplete_reason": reason, "command": command, "rows": rows}
    json_files.write(folder / "scaling.json", plain(told))
    print("\n".join(table(rows, progress.columns(sys.stdout))))
    print(f"{'INCOMPLETE: ' + reason + '; ' if reason else ''}Scaling: {folder / 'scaling.json'}", flush=True)
    return code


def _child(command: list[str], environment: Mapping[str, str]) -> int:
    with subprocess.Popen(command, env=signals.of_child(environment), stderr=streams.error_descriptor()) as child:
        try:
            return child.wait()
        except BaseException:
            with signals.ignored():
                child.terminate()
                try:
                    child.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    signals.end_children()
            raise


def _row(point: Point, doc: Results, target: Path) -> Row:
    stats = cast(Statistics, doc["statistics"])
    return {
        "name": point.name,
        "ranks": point.ranks,
        "units": point.units,
        "unit": point.unit,
        "throughput": stats["throughput"],
        "throughput_with_overhead": stats["throughput_with_overhead"],
        "mean": stats["mean"],
        "p90": stats["p90"],
        "calls": stats["calls"],
        "peak_host_bytes": doc["memory"]["peak_host_bytes"],
        "warnings": [warning["name"] for warning in doc["warnings"]],
        "results": str(target / "results.json"),
    }


def efficiency(rows: Sequence[Row]) -> None:
    """Add to each row its speed-up over the first and its efficiency: throughput a unit over the first's a unit."""
    for row in rows:
        row["speed_up"] = row["throughput"] / rows[0]["throughput"]
        row["efficiency"] = row["speed_up"] * rows[0]["units"] / row["units"]


HEAD = ("ranks", "img/s", "speed-up", "efficiency", "mean ms", "p90 ms", "peak GiB")


def table(rows: Sequence[Row], width: int | None = None) -> list[str]:
    """The rows as lines of text of at most `width` characters."""
    cells = [
        [
            row["name"],
            f"{row['throughput']:.4g}",
            f"{row['speed_up']:.2f}",
            f"{row['efficiency']:.1%}",
            f"{row['mean']:.2f}",
            f"{row['p90']:.2f}",
            f"{row['peak_host_bytes'] / 2**30:.2f}",
        ]
        for row in rows
    ]
    return columns.table(HEAD, cells, width)
