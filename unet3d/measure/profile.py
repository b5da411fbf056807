"""Where an inference spends its time, layer by layer: time, FLOP, bytes, and shares of what the machine reaches.

Of the very object that was timed, one row for each operator as its engine tells it, in order of execution. What runs
outside operators is one row of its own, so that the rows always add up to the whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unet3d import columns, json_files
from unet3d.devices.ceilings import Ceilings
from unet3d.engines.base import Engine, Operator
from unet3d.measure import rates
from unet3d.results.console import Console
from unet3d.results.record import Section

REST = "outside operators"


@dataclass(frozen=True, kw_only=True)
class Layer(Operator):
    """An operator with its shares: of the whole time, and of the ceilings that `unet3d.measure.rates` measured.

    share_of_matmul: executed FLOP over the time, of the hardware ceiling of the operator's own type of products.
    """

    share_of_time: float
    share_of_matmul: float | None
    share_of_copy: float | None


def measure(engine: Engine, staged: Any) -> list[Layer]:
    """One profiled inference of an engine that is warmed up."""
    request = engine.request
    operators, total = engine.operators(staged)
    told = [_told(operator, request.precision) for operator in operators]
    types = dict.fromkeys(operator.products for operator in told if operator.products)
    top = rates.measure(request.device.kind, request.precision, request.threads, types)
    rest = max(0.0, total - sum(operator.ms for operator in operators))
    return [
        Layer(
            **asdict(operator),
            share_of_time=operator.ms / total,
            share_of_matmul=_share((operator.executed_flop or 0) / 1e12, operator.ms, _tflops(top, operator.products)),
            share_of_copy=_share(operator.bytes / 1e9, operator.ms, top.copy_gbs),
        )
        for operator in (*told, Operator(REST, [], rest, 0, 0, None, 0))
    ]


def _told(operator: Operator, precision: str) -> Operator:
    """The operator with what it leaves open: its products are as many as it is counted for, in the request's precision."""
    executed = operator.flop if operator.executed_flop is None else operator.executed_flop
    return replace(operator, products=(operator.products or precision) if executed else None, executed_flop=executed)


def _tflops(top: Ceilings, products: str | None) -> float | None:
    rate = top.of(products) if products else None
    return rate.tflops if rate else None


def _share(amount: float, ms: float, ceiling: float | None) -> float | None:
    return amount / (ms / 1e3) / ceiling if amount and ms and ceiling else None


HEAD = ("operator", "first inputs", "ms", "time", "GFLOP", "executed", "products", "hardware", "MB", "copy")
MEANING = (
    "GFLOP are as of direct convolutions. Hardware is the share of the hardware ceiling of an operator's own products, by the "
    "GFLOP that it executed; copy is the share of copying memory."
)
BEYOND = (
    "Copying above 100%: what is read was still in a cache. Hardware above 100%: other work slowed the ceiling's measurement; "
    "profile again on a quiet machine."
)


def table(layers: list[Layer], width: int | None = None, least: float = 0.002) -> list[str]:
    """Lines to print: the layers that take at least this share of the time, the others as one. width: of a line."""
    shown = [layer for layer in layers if layer.share_of_time >= least]
    rows = [
        [
            layer.name,
            " ".join("x".join(map(str, shape)) for shape in layer.shapes[:2] if len(shape) == 5),
            f"{layer.ms:.2f}",
            f"{layer.share_of_time:.1%}",
            f"{layer.flop / 1e9:.1f}",
            f"{(layer.executed_flop or 0) / 1e9:.1f}",
            layer.products or "",
            _percent(layer.share_of_matmul),
            f"{layer.bytes / 1e6:.1f}",
            _percent(layer.share_of_copy),
        ]
        for layer in shown
    ]
    rest = sum(layer.ms for layer in layers) - sum(layer.ms for layer in shown)
    beyond = any((share or 0) > 1 for layer in shown for share in (layer.share_of_matmul, layer.share_of_copy))
    executed = sum(layer.executed_flop or 0 for layer in layers)
    return [
        *columns.table(HEAD, rows, width, words=(0, 1)),
        *columns.paragraph(MEANING, width),
        *(columns.paragraph(BEYOND, width) if beyond else ()),
        f"{len(layers) - len(shown)} shorter ones: {rest:.2f} ms; all: {sum(layer.ms for layer in layers):.2f} ms, "
        f"{executed / 1e12:.3f} TFLOP executed for {sum(layer.flop for layer in layers) / 1e12:.3f} of direct convolutions",
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def report(engine: Engine, staged: Any, folder: Path, out: Console) -> list[Section]:
    """Profile one inference after the timed ones: print the table, write profile.json; returns its rows.

    Raises:
        UserError: when the file cannot be written.
    """
    with out.phase("profiling one more call"):
        layers = measure(engine, staged)
    out.fitted(lambda width: table(layers, width))
    rows = [asdict(layer) for layer in layers]
    json_files.write(folder / "profile.json", rows)
    return rows
