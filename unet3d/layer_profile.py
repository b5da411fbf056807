"""Where an inference spends its time, layer by layer: time, FLOP, bytes, and shares of what the machine reaches.

Of the very object that was timed, by PyTorch's profiler: one row for each outermost operator, in order of execution,
ours under their own names (unet3d_cpu::norm_act_). What runs outside operators, such as the loops that torch.compile
writes, is one row of its own, so that the rows always add up to the whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from unet3d import ceilings
from unet3d.files import write_atomically

if TYPE_CHECKING:
    from unet3d.console import Console
    from unet3d.engines.base import Engine
    from unet3d.record import Record

OPERATORS = ("aten::", "mkldnn::", "torch_ipex::", "unet3d::", "unet3d_cpu::")
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
REST = "outside operators"
# How often an operator that computes no convolution passes over its first input, reads and writes together: for a
# normalisation the statistics, the values, the result. 2 is for one that reads and writes each value once.
PASSES = {"unet3d_cpu::norm_act_": 3, "unet3d_cpu::norm_act_head": 2, "aten::instance_norm": 3, "aten::batch_norm": 3,
          "aten::var_mean": 1}


@dataclass(frozen=True)
class Layer:
    """One operator of one inference. FLOP: a multiplication and an addition are two; convolutions only. Bytes: the least
    that it reads and writes, in the run's precision. Shares: of the ceilings that `unet3d.ceilings` measured."""

    name: str
    shapes: list[list[int]]
    ms: float
    flop: int
    bytes: int
    share_of_time: float
    share_of_matmul: float | None
    share_of_copy: float | None


def work(name: str, shapes: list[list[int]], arguments: list[Any], size: int) -> tuple[int, int]:
    """FLOP and bytes of an operator with inputs of these shapes; `arguments` holds those that are no tensors.

    Convolutions have the arguments (x, weight, …, stride, padding, …); our `conv_add_` has what it adds to before them.
    """
    tensors = [shape for shape in shapes if len(shape) == 5]
    if not tensors:
        return 0, 2 * size * sum(prod(shape) for shape in shapes[:1] if shape)
    if "conv" not in name or len(tensors) < 2:
        return 0, PASSES.get(name, 2) * size * prod(tensors[0])
    adds = name.endswith("conv_add_")
    x, weight = tensors[1:3] if adds else tensors[:2]
    # Under a trace both kinds are aten::_convolution, whose first truth value says which.
    transposed = "transpose" in name or next((value for value in arguments if isinstance(value, bool)), False)
    stride, padding = ([value for value in arguments if isinstance(value, list) and len(value) == 3] + [[1] * 3, [0] * 3])[:2]
    if transposed:
        extents = [(n - 1) * s - 2 * p + k for n, s, p, k in zip(x[2:], stride, padding, weight[2:], strict=True)]
        output = [x[0], weight[1], *extents]
    else:
        extents = [(n + 2 * p - k) // s + 1 for n, s, p, k in zip(x[2:], stride, padding, weight[2:], strict=True)]
        output = [x[0], weight[0], *extents]
    positions = x if transposed else output
    flop = 2 * prod(weight) * positions[0] * prod(positions[2:])
    return flop, size * (prod(x) + prod(weight) + prod(output) * (2 if adds else 1))


def measure(engine: Engine, staged: Any) -> list[Layer]:
    """One profiled inference of a torch engine that is warmed up; [] for an engine that PyTorch does not run."""
    if engine.name != "torch":
        return []
    import torch

    request = engine.request
    kind = request.device.kind
    top = ceilings.measure(kind, request.precision, request.threads if kind == "cpu" else None)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if kind != "cpu":
        activities.append(getattr(torch.profiler.ProfilerActivity, kind.upper()))
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile, \
            torch.profiler.record_function("inference"):
        engine.infer(staged)
    events = sorted(profile.events(), key=lambda event: (event.time_range.start, -event.time_range.end))
    whole = next(event for event in events if event.name == "inference")
    found, end = [], whole.time_range.start
    for event in events:
        # The outermost operators: one that starts before the last one ended is part of it.
        if event.name.startswith(OPERATORS) and event.thread == whole.thread and event.time_range.start >= end:
            end = event.time_range.end
            ms = (event.time_range.elapsed_us() if kind == "cpu" else event.device_time_total) / 1e3
            shapes = [list(shape) for shape in event.input_shapes]
            found.append((event.name, shapes, ms, *work(event.name, shapes, event.concrete_inputs, BYTES[request.precision])))
    total = whole.time_range.elapsed_us() / 1e3
    found.append((REST, [], max(0.0, total - sum(row[2] for row in found)), 0, 0))
    return [Layer(name, shapes, ms, flop, moved, ms / total,
                  _share(flop / 1e12, ms, top.matmul_tflops), _share(moved / 1e9, ms, top.copy_gbs))
            for name, shapes, ms, flop, moved in found]


def _share(amount: float, ms: float, ceiling: float | None) -> float | None:
    return amount / (ms / 1e3) / ceiling if amount and ms and ceiling else None


def table(layers: list[Layer], least: float = 0.002) -> list[str]:
    """Lines to print: the layers that take at least this share of the time, the others as one."""
    lines = [f"{'operator':<30} {'first inputs':<42} {'ms':>9} {'time':>6} {'GFLOP':>8} {'matmul':>7} {'MB':>8} {'copy':>6}"]
    shown = [layer for layer in layers if layer.share_of_time >= least]
    for layer in shown:
        shapes = " ".join("x".join(map(str, shape)) for shape in layer.shapes[:2] if len(shape) == 5)
        lines.append(f"{layer.name:<30} {shapes:<42} {layer.ms:9.2f} {layer.share_of_time:6.1%} {layer.flop / 1e9:8.1f} "
                     f"{_percent(layer.share_of_matmul):>7} {layer.bytes / 1e6:8.1f} {_percent(layer.share_of_copy):>6}")
    rest = sum(layer.ms for layer in layers) - sum(layer.ms for layer in shown)
    lines.append(f"{len(layers) - len(shown)} shorter ones: {rest:.2f} ms; all: {sum(layer.ms for layer in layers):.2f} ms, "
                 f"{sum(layer.flop for layer in layers) / 1e12:.3f} TFLOP")
    return lines


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def report(engine: Engine, staged: Any, record: Record, out: Console) -> None:
    """Profile one inference after the timed ones: print the table, write profile.json, note it in the record."""
    layers = measure(engine, staged)
    if not layers:
        record.warn("no-profile", f"PROFILE=yes has no layers of ENGINE={engine.name}.", "Use ENGINE=torch.")
        return
    out.line("\n".join(table(layers)))
    record.extra["profile"] = [asdict(layer) for layer in layers]
    write_atomically(record.settings.output_dir / "profile.json", json.dumps(record.extra["profile"], indent=1) + "\n")
