"""Where an inference spends its time, layer by layer: time, FLOP, bytes, and shares of what the machine reaches.

Of the very object that was timed, one row for each operator or kernel as its engine tells it, in order of execution. What
is none of them is one row of its own, so that the rows add up to the whole.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from unet3d import columns, json_files
from unet3d.devices import ceilings
from unet3d.engines.base import Engine, Operator, Profiled
from unet3d.results.console import Console
from unet3d.results.facts import RunWarning
from unet3d.results.record import Section

# More characters of a kernel's name, which holds its templates, tell nothing to a reader.
KERNEL_NAME = 200


@dataclass(frozen=True)
class Layer(Operator):
    """An operator with its shares: of the whole time, and of the ceilings that `unet3d.devices.ceilings` measured."""

    share_of_time: float = 0.0
    share_of_matmul: float | None = None
    share_of_copy: float | None = None


def measure(engine: Engine, staged: Any) -> tuple[list[Layer], Profiled]:
    """One profiled inference of an engine that is warmed up: the rows, and what the engine said."""
    request = engine.request
    top = ceilings.measure(request.device.kind, request.precision, request.threads)
    profiled = engine.operators(staged)
    rest = max(0.0, profiled.ms - sum(operator.ms for operator in profiled.operators))
    rows = [*profiled.operators, Operator(profiled.rest, [], rest, 0, 0)]
    total = sum(row.ms for row in rows)
    return [
        Layer(
            **asdict(row),
            share_of_time=row.ms / total if total else 0.0,
            share_of_matmul=_share(row.flop / 1e12, row.ms, top.matmul_tflops),
            share_of_copy=_share(row.bytes / 1e9, row.ms, top.copy_gbs),
        )
        for row in rows
    ], profiled


def _share(amount: float, ms: float, ceiling: float | None) -> float | None:
    return amount / (ms / 1e3) / ceiling if amount and ms and ceiling else None


def table(layers: list[Layer], width: int | None = None, least: float = 0.002) -> list[str]:
    """Lines to print: the layers that take at least this share of the time, the others as one. width: of a line."""
    shown = [layer for layer in layers if layer.share_of_time >= least]
    # An engine's own graph has names for its layers, which then are those of the operators.
    named = any(layer.layer for layer in layers)
    on_gpu = any(layer.kernel for layer in layers)
    words = (*(["layer"] if named else []), "operator", "kernel" if on_gpu else "first inputs")
    rows = [
        [
            *([layer.layer or ""] if named else []),
            "" if layer.name == layer.kernel else layer.name.rpartition("::")[2],
            _kernel(layer.kernel or "") if on_gpu else _first_inputs(layer),
            f"{layer.ms:.2f}",
            f"{layer.share_of_time:.1%}",
            f"{layer.flop / 1e9:.1f}",
            _percent(layer.share_of_matmul),
            f"{layer.bytes / 1e6:.1f}",
            _percent(layer.share_of_copy),
        ]
        for layer in shown
    ]
    rest = sum(layer.ms for layer in layers) - sum(layer.ms for layer in shown)
    return [
        *columns.table((*words, *NUMBERS), rows, width, words=range(len(words))),
        f"{len(layers) - len(shown)} shorter ones: {rest:.2f} ms; all: {sum(layer.ms for layer in layers):.2f} ms, "
        f"{sum(layer.flop for layer in layers) / 1e12:.3f} TFLOP",
    ]


NUMBERS = ("ms", "time", "GFLOP", "matmul", "MB", "copy")


def _first_inputs(layer: Layer) -> str:
    return " ".join("x".join(map(str, shape)) for shape in layer.shapes[:2] if len(shape) == 5)


def _kernel(name: str) -> str:
    """A kernel's name without what its language puts around it."""
    return re.sub(r"\(.*", "", name.removeprefix("void ").replace("(anonymous namespace)::", ""))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def report(
    engine: Engine, staged: Any, folder: Path, out: Console, latencies_ms: list[float] | None = None
) -> tuple[list[Section], list[RunWarning]]:
    """Profile one inference after the timed ones: print the table, write profile.json; returns its rows and what is doubtful.

    latencies_ms: of timed calls that ran one at a time, to be told beside the rows' sum.

    Raises:
        UserError: when the file cannot be written.
    """
    with out.phase("profiling one more call"):
        layers, profiled = measure(engine, staged)
    beside = f"; the timed calls' median: {median(latencies_ms):.2f} ms" if latencies_ms else ""

    def lines(width: int | None) -> list[str]:
        *rows, last = table(layers, width)
        return [*rows, *columns.paragraph(f"{last}{beside}", width)]

    out.fitted(lines)
    rows = [asdict(layer) | {"kernel": layer.kernel and columns.cut(layer.kernel, KERNEL_NAME)} for layer in layers]
    json_files.write(folder / "profile.json", rows)
    warnings = [
        RunWarning("profile", f"in the profile, {note}.", "Its rows' times are right; see docs/tuning.md.")
        for note in profiled.notes
    ]
    return rows, warnings
