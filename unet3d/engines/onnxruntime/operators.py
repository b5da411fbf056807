"""The operators of one inference by ONNX Runtime's own profiling: time, FLOP and bytes of each."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from unet3d.config.precisions import of_type
from unet3d.engines.base import Operator
from unet3d.network.flops import convolution_flop

CONVOLUTIONS = ("Conv", "FusedConv")
TRANSPOSED = ("ConvTranspose",)
# Bytes of types that are no precision: extents and axes.
OTHER_SIZES = {"int64": 8}
# A normalisation reads its input for the statistics and again for the values.
READS = {"InstanceNormalization": 2}


def read(path: Path) -> tuple[list[Operator], float]:
    """The last inference in a file that a session with `enable_profiling` wrote, and milliseconds of the whole."""
    events = json.loads(path.read_text())
    run = max((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])
    ran = sorted(
        (
            event
            for event in events
            if event["cat"] == "Node" and "op_name" in event["args"] and run["ts"] <= event["ts"] <= run["ts"] + run["dur"]
        ),
        key=lambda event: event["ts"],
    )
    return [_operator(event["dur"] / 1e3, event["args"]) for event in ran], run["dur"] / 1e3


def _operator(ms: float, told: dict[str, Any]) -> Operator:
    kind = told["op_name"]
    inputs = [_type_and_shape(tensor) for tensor in told["input_type_shape"]]
    outputs = [_type_and_shape(tensor) for tensor in told["output_type_shape"]]
    shapes = [shape for _, shape in inputs]
    flop = 0
    if kind in TRANSPOSED:
        # Its weights are packed beforehand and not told. In nnU-Net's graph kernel and stride are the same.
        volume, result = shapes[0], outputs[0][1]
        kernel = [after // before for before, after in zip(volume[2:], result[2:], strict=True)]
        flop = convolution_flop([volume[1], result[1], *kernel], volume, result, transposed=True)
    elif kind in CONVOLUTIONS:
        flop = convolution_flop(shapes[1], shapes[0], outputs[0][1])
    moved = sum(_size(name) * prod(shape) for name, shape in [*inputs, *outputs])
    moved += (READS.get(kind, 1) - 1) * _size(inputs[0][0]) * prod(shapes[0]) if inputs else 0
    return Operator(kind, shapes, ms, flop, moved)


def _type_and_shape(tensor: dict[str, list[int]]) -> tuple[str, list[int]]:
    return next(iter(tensor.items()))


def _size(type_name: str) -> int:
    """Bytes of a number."""
    precision = of_type(type_name)
    return precision.bytes if precision else OTHER_SIZES.get(type_name, 4)
