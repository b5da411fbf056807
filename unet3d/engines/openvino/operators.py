"""The graph that an OpenVINO plugin executes, read back from it: each operator's kernel, types, work and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unet3d.config.precisions import name_of_type
from unet3d.engines.base import Operator
from unet3d.network.flops import convolution_flop

if TYPE_CHECKING:
    import openvino

TRANSPOSED = "deconvolution"
CONVOLUTIONS = ("convolution", TRANSPOSED)
# Passes over the first input: a normalisation reads it for the statistics and again for the values.
READS = {"mvn": 2}


@dataclass(frozen=True)
class Node:
    """An operator of the executed graph. FLOP of convolutions only, a multiplication and an addition are two; bytes that
    it reads and writes at least, in the types that it really has."""

    name: str
    kind: str
    kernel: str
    layout: str
    shapes: list[list[int]]
    input_type: str
    flop: int
    bytes: int

    @property
    def is_convolution(self) -> bool:
        return self.kind.lower() in CONVOLUTIONS


def nodes(compiled: openvino.CompiledModel) -> list[Node]:
    """The executed graph in order of execution, constants and results left out."""
    executed = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind, kernel, layout = (
            str(getattr(info[key], "value", info[key])) for key in ("layerType", "primitiveType", "outputLayouts")
        )
        if not node.inputs() or not node.outputs() or kind == "Output":
            continue
        shapes = [list(port.get_shape()) for port in node.inputs()]
        image, result = shapes[0], list(node.output(0).get_shape())
        flop = 0
        if kind.lower() in CONVOLUTIONS:
            flop = convolution_flop(shapes[1], image, result, kind.lower() == TRANSPOSED)
        moved = sum(_bytes(port) for port in [*node.inputs(), *node.outputs()])
        moved += (READS.get(kind.lower(), 1) - 1) * _bytes(node.input(0))
        input_type = node.input(0).get_element_type().get_type_name()
        executed.append(Node(node.get_friendly_name(), kind, kernel, layout, shapes, name_of_type(input_type), flop, moved))
    return executed


def _bytes(port: Any) -> int:
    return prod(port.get_shape()) * port.get_element_type().bitwidth // 8


def convolution_work(compiled: openvino.CompiledModel) -> tuple[dict[str, float], list[Node]]:
    """FLOP of the convolutions by the data type of their input, and the convolutions."""
    convolutions = [node for node in nodes(compiled) if node.is_convolution]
    work: Counter[str] = Counter()
    for node in convolutions:
        work[node.input_type] += node.flop
    return dict(work), convolutions


def profile(
    compiled: openvino.CompiledModel, request: openvino.InferRequest, calls: int, infer: Callable[[], object]
) -> tuple[list[Operator], float]:
    """See `unet3d.engines.base.Engine.operators`. Compiled with PERF_COUNT; `calls` were made of it so far.

    OpenVINO hands out each operator's mean over all calls; the sums after and before one more call give that call's.
    """
    before = _means(request)
    start = perf_counter()
    infer()
    whole = 1e3 * (perf_counter() - start)
    after = _means(request)
    rows = []
    for node in nodes(compiled):
        if node.name in after:
            ms = max(0.0, (calls + 1) * after[node.name] - calls * before.get(node.name, 0.0))
            products = node.input_type if node.is_convolution else None
            rows.append(Operator(f"{node.kind} {node.kernel}", node.shapes, ms, node.flop, node.bytes, products=products))
    return rows, whole


def _means(request: openvino.InferRequest) -> dict[str, float]:
    """Milliseconds of each operator that was executed."""
    return {
        info.node_name: 1e3 * info.real_time.total_seconds()
        for info in request.profiling_info
        if info.status == info.Status.EXECUTED
    }
