"""The operators of one inference by PyTorch's profiler: time, FLOP and bytes of each.

One row for each outermost operator, ours under their own names (unet3d_fused::conv). What runs outside operators,
such as the loops that torch.compile writes, is in no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from unet3d.engines.base import Operator
from unet3d.engines.pytorch.form import storage_type
from unet3d.network.cpu_ops import ops
from unet3d.network.flops import convolution_extent, convolution_flop

if TYPE_CHECKING:
    import torch

    from unet3d.engines.base import Engine
    from unet3d.network.flops import Executed

FUSED = "unet3d_fused::"
OPERATORS = ("aten::", "mkldnn::", "torch_ipex::", "unet3d::", FUSED)
# How often an operator that computes no convolution passes over its first input, reads and writes together: for a
# normalisation the statistics, the values, the result. 2 is for one that reads and writes each value once.
PASSES = {
    "aten::instance_norm": 3,
    "aten::batch_norm": 3,
    "aten::var_mean": 1,
}
# Their places among a convolution's arguments that have three values, where Inductor's own operators differ from PyTorch's:
# (x, weight, bias, padding, stride, …) and (x, weight, bias, padding, output_padding, stride, …).
STRIDE_AND_PADDING = {"mkldnn::_convolution_pointwise": (1, 0), "mkldnn::_convolution_transpose_pointwise": (2, 0)}


def work(name: str, shapes: list[list[int]], arguments: Sequence[object], size: int) -> tuple[int, int]:
    """FLOP and bytes of an operator with inputs of these shapes; `arguments` holds those that are no tensors.

    Convolutions have the arguments (x, weight, …, stride, padding, …).
    """
    if name.startswith(FUSED):
        return ops.work(name, shapes, arguments, size)
    tensors = [shape for shape in shapes if len(shape) == 5]
    if not tensors:
        return 0, 2 * size * sum(prod(shape) for shape in shapes[:1] if shape)
    if "conv" not in name or len(tensors) < 2:
        return 0, PASSES.get(name, 2) * size * prod(tensors[0])
    x, weight = tensors[:2]
    # Under a trace both kinds are aten::_convolution, whose first truth value says which.
    transposed = "transpose" in name or next((value for value in arguments if isinstance(value, bool)), False)
    lists = [value for value in arguments if isinstance(value, list) and len(value) == 3] or [[1] * 3, [0] * 3]
    stride, padding = (lists[place] for place in STRIDE_AND_PADDING.get(name, (0, 1)))
    extent = convolution_extent(x[2:], weight[2:], stride, padding, transposed)
    output = [x[0], weight[1 if transposed else 0], *extent]
    return convolution_flop(weight, x, output, transposed), size * (prod(x) + prod(weight) + prod(output))


def profile(
    engine: Engine[torch.Tensor, torch.Tensor], staged: torch.Tensor, executed: Sequence[Executed] = ()
) -> tuple[list[Operator], float]:
    """See `unet3d.engines.base.Engine.operators`. executed: what the fused layers multiply, in order of execution."""
    import torch

    request = engine.request
    on_host = request.device.is_host
    activities = [torch.profiler.ProfilerActivity.CPU]
    if not on_host:
        activities.append(getattr(torch.profiler.ProfilerActivity, request.device.kind.upper()))
    with (
        torch.profiler.profile(activities=activities, record_shapes=True) as profiled,
        torch.profiler.record_function("inference"),
    ):
        engine.infer(staged)
    events = sorted(profiled.events(), key=lambda event: (event.time_range.start, -event.time_range.end))
    whole = next(event for event in events if event.name == "inference")
    rows, end, fused = [], whole.time_range.start, iter(executed)
    for event in events:
        # The outermost operators: one that starts before the last one ended is part of it.
        if event.name.startswith(OPERATORS) and event.thread == whole.thread and event.time_range.start >= end:
            end = event.time_range.end
            ms = (event.time_range.elapsed_us() if on_host else event.device_time_total) / 1e3
            shapes = [list(shape) for shape in event.input_shapes]
            flop, moved = work(event.name, shapes, event.concrete_inputs, storage_type(request.precision).itemsize)
            multiplied = next(fused) if executed and event.name.startswith(FUSED) else None
            types = (multiplied.products, multiplied.flop) if multiplied else ()
            rows.append(Operator(event.name, shapes, ms, flop, moved, *types))
    return rows, whole.time_range.elapsed_us() / 1e3
