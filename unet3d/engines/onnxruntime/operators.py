"""The operators of one inference by ONNX Runtime's own profiling: time, FLOP and bytes of each."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from unet3d.engines.base import Operator

BYTES = {"float": 4, "float16": 2, "bfloat16": 2, "int64": 8}
CONVOLUTIONS = ("Conv", "FusedConv")
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
    inputs = [next(iter(one.items())) for one in told["input_type_shape"]]
    outputs = [next(iter(one.items())) for one in told["output_type_shape"]]
    shapes = [shape for _, shape in inputs]
    flop = 0
    if kind == "ConvTranspose":
        # Its weights are packed beforehand and not told. In nnU-Net's graph kernel and stride are the same, so that each
        # voxel of the result is a product of one voxel's channels.
        flop = 2 * shapes[0][1] * prod(outputs[0][1])
    elif kind in CONVOLUTIONS:
        result = outputs[0][1]
        flop = 2 * prod(shapes[1]) * result[0] * prod(result[2:])
    moved = sum(BYTES.get(name, 4) * prod(shape) for name, shape in [*inputs, *outputs])
    moved += (READS.get(kind, 1) - 1) * BYTES.get(inputs[0][0], 4) * prod(shapes[0]) if inputs else 0
    return Operator(kind, shapes, ms, flop, moved)
