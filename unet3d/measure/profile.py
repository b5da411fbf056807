"""Where an inference spends its time, layer by layer: time, FLOP, bytes, and shares of what the machine reaches.

Of the very object that was timed, one row for each operator or kernel as its engine tells it, in order of execution. What
is none of them is one row of its own, so that the rows add up to the whole.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from unet3d import columns, json_files
from unet3d.devices.ceilings import EXCESS, HARDWARE
from unet3d.engines.base import Engine, Operator, Profiled
from unet3d.measure import rates
from unet3d.results.console import Console
from unet3d.results.facts import RunWarning
from unet3d.results.record import Section

# More characters of a kernel's name, which holds its templates, tell nothing to a reader.
KERNEL_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Layer(Operator):
    """An operator with its shares: of the whole time, and of the ceilings that `unet3d.measure.rates` measured.

    share_of_matmul: executed FLOP over the time, of the ceiling of the operator's own type of products. ceiling: whose that is,
    see `unet3d.devices.ceilings.Ceilings.whose`; None where there is no share.
    """

    share_of_time: float = 0.0
    share_of_matmul: float | None = None
    ceiling: str | None = None
    share_of_copy: float | None = None


def measure(engine: Engine, staged: Any) -> tuple[list[Layer], Profiled]:
    """One profiled inference of an engine that is warmed up: the rows, and what the engine said."""
    request = engine.request
    profiled = engine.operators(staged)
    rest = max(0.0, profiled.ms - sum(operator.ms for operator in profiled.operators))
    rows = [_told(row, request.precision) for row in (*profiled.operators, Operator(profiled.rest, [], rest, 0, 0))]
    types = dict.fromkeys(row.products for row in rows if row.products)
    top = rates.measure(request.device.kind, request.precision, request.threads, types)
    total = sum(row.ms for row in rows)
    layers = []
    for row in rows:
        rate = top.of(row.products) if row.products else None
        share = _share((row.executed_flop or 0) / 1e12, row.ms, rate.tflops if rate else None)
        layers.append(
            Layer(
                **asdict(row),
                share_of_time=row.ms / total if total else 0.0,
                share_of_matmul=share,
                ceiling=top.whose(row.products) if row.products and share is not None else None,
                share_of_copy=_share(row.bytes / 1e9, row.ms, top.copy_gbs),
            )
        )
    return layers, profiled


def _told(operator: Operator, precision: str) -> Operator:
    """The operator with what it leaves open: its products are as many as it is counted for, in the request's precision."""
    executed = operator.flop if operator.executed_flop is None else operator.executed_flop
    return replace(operator, products=(operator.products or precision) if executed else None, executed_flop=executed)


def _share(amount: float, ms: float, ceiling: float | None) -> float | None:
    return amount / (ms / 1e3) / ceiling if amount and ms and ceiling else None


def _meaning(ceilings: list[str]) -> str:
    """What the shares are of. ceilings: whose they are."""
    whose = " or ".join(ceilings)
    return (
        f"GFLOP are as of direct convolutions. {_heading(ceilings).capitalize()} is the share of the {whose} ceiling of an "
        "operator's own products, by the GFLOP that it executed; copy is the share of copying memory."
    )


def _heading(ceilings: list[str]) -> str:
    return ceilings[0] if len(ceilings) == 1 else "ceiling"


def _beyond(layers: list[Layer], ceilings: list[str]) -> str:
    """Why shares are above 100%, where some are."""
    reasons = []
    if any((layer.share_of_copy or 0) > 1 for layer in layers):
        reasons.append("Copying above 100%: what is read was still in a cache.")
    for whose in ceilings:
        if any(layer.ceiling == whose and (layer.share_of_matmul or 0) > 1 for layer in layers):
            remedy = "; profile again on a quiet machine" if whose == HARDWARE else ""
            reasons.append(f"{whose.capitalize()} above 100%: {EXCESS[whose]}{remedy}.")
    return " ".join(reasons)


def table(layers: list[Layer], width: int | None = None, least: float = 0.002) -> list[str]:
    """Lines to print: the layers that take at least this share of the time, the others as one. width: of a line."""
    shown = [layer for layer in layers if layer.share_of_time >= least]
    # An engine's own graph has names for its layers, which then are those of the operators.
    named = any(layer.layer for layer in layers)
    on_gpu = any(layer.kernel for layer in layers)
    ceilings = list(dict.fromkeys(layer.ceiling for layer in layers if layer.ceiling)) or [HARDWARE]
    words = (*(["layer"] if named else []), "operator", "kernel" if on_gpu else "first inputs")
    # A narrow terminal has no room for the last ones.
    numbers = ("ms", "time", _heading(ceilings), "copy", "products", "executed", "GFLOP", "MB")
    rows = [
        [
            *([layer.layer or ""] if named else []),
            "" if layer.name == layer.kernel else layer.name.rpartition("::")[2],
            _kernel(layer.kernel or "") if on_gpu else _first_inputs(layer),
            f"{layer.ms:.2f}",
            f"{layer.share_of_time:.1%}",
            _percent(layer.share_of_matmul),
            _percent(layer.share_of_copy),
            layer.products or "",
            f"{(layer.executed_flop or 0) / 1e9:.1f}",
            f"{layer.flop / 1e9:.1f}",
            f"{layer.bytes / 1e6:.1f}",
        ]
        for layer in shown
    ]
    rest = sum(layer.ms for layer in layers) - sum(layer.ms for layer in shown)
    beyond = _beyond(shown, ceilings)
    executed = sum(layer.executed_flop or 0 for layer in layers)
    return [
        *columns.table((*words, *numbers), rows, width, words=range(len(words))),
        *columns.paragraph(_meaning(ceilings), width),
        *(columns.paragraph(beyond, width) if beyond else ()),
        f"{len(layers) - len(shown)} shorter ones: {rest:.2f} ms; all: {sum(layer.ms for layer in layers):.2f} ms, "
        f"{executed / 1e12:.3f} TFLOP executed for {sum(layer.flop for layer in layers) / 1e12:.3f} of direct convolutions",
    ]


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
