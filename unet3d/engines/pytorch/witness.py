"""What the convolutions of an inference really got, as PyTorch's profiler saw them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from unet3d.config.precisions import PRECISIONS, name_of_type
from unet3d.engines.pytorch import ipex_witness, profiler
from unet3d.network.cpu_ops import ops
from unet3d.network.flops import convolution_extent, convolution_flop

# Operators that compute a convolution, as the profiler names them; ours for GPUs are registered as unet3d::conv….
CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "mkldnn::_convolution", "torch_ipex::", "unet3d::conv", ops.CONV)
# Places among a library's convolution's arguments of three values, where Inductor's own operators differ from PyTorch's:
# (x, weight, bias, padding, stride, …) and (x, weight, bias, padding, output_padding, stride, …).
STRIDE_AND_PADDING = {"mkldnn::_convolution_pointwise": (1, 0), "mkldnn::_convolution_transpose_pointwise": (2, 0)}


class Witness:
    """Data types of the convolutions seen, with the operators that computed them and their FLOP."""

    def __init__(self, ipex_packed: bool):
        """ipex_packed: whether IPEX's packed layers run, whose operators show no data types."""
        self._ipex_packed = ipex_packed
        self.observed: dict[str, set[str]] = {}
        self._flop: Counter[str] = Counter()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record what runs inside."""
        with (
            ipex_witness.observing(self.observed) if self._ipex_packed else contextlib.nullcontext(),
            profiler.recording(shapes=True) as profile,
        ):
            yield
        assert profile.kineto_results is not None
        events = [event for event in profile.kineto_results.events() if event.name().startswith(CONVOLUTIONS)]
        ended: dict[int, int] = {}
        for event in sorted((e for e in events if e.dtypes()), key=lambda e: (e.start_ns(), -e.duration_ns())):
            # Only the outermost: PyTorch's convolutions are made of others, and so are some of ours.
            outermost = event.start_ns() >= ended.get(event.start_thread_id(), 0)
            self._note(event, counted=outermost)
            if outermost:
                ended[event.start_thread_id()] = event.start_ns() + event.duration_ns()

    def _note(self, event: Any, counted: bool) -> None:
        name, types = event.name(), event.dtypes()
        computed = name_of_type(ops.computed_in(types) if name == ops.CONV else _computed_in(types))
        self.observed.setdefault(computed, set()).add(name)
        shapes = [list(shape) for shape in event.shapes()]
        if counted:
            self._flop[computed] += flop(name, shapes, event.concrete_inputs())

    def shares(self) -> dict[str, float]:
        """Shares of the FLOP by data type, the largest first."""
        total = sum(self._flop.values())
        return {name: count / total for name, count in self._flop.most_common()} if total else {}

    def precision(self) -> str:
        """The data type that nearly all convolutions got (`Precision.main_share`), else all of them."""
        for name, share in self.shares().items():
            precision = PRECISIONS.get(name)
            if precision is not None and share > precision.main_share:
                return name
        return "+".join(sorted(self.observed))


def _computed_in(types: Sequence[str]) -> str:
    """The data type of a convolution's products, from those of its arguments: bytes where its weight is of bytes."""
    return next((kind for kind in types if kind in PRECISIONS["int8"].type_names), types[0])


def flop(name: str, shapes: Sequence[Sequence[int]], arguments: Sequence[object]) -> int:
    """FLOP of a convolution of a library or of our CPU's form; 0 for one whose arguments do not tell.

    shapes: of all arguments, empty where they are no tensors. arguments: those that are; a library's are (x, weight, …,
    stride, padding, …). Ours declare their own.
    """
    if name in (ops.CONV, ops.UPSAMPLE, ops.HEAD):
        return ops.flop(name, shapes, arguments)
    if name.startswith("unet3d::"):
        from unet3d.network.custom_ops import flop_of

        return flop_of(name, shapes)
    tensors = [shape for shape in shapes if len(shape) == 5]
    if len(tensors) < 2:
        return 0
    x, weight = tensors[:2]
    # Under a trace both kinds are aten::_convolution, whose first truth value says which.
    transposed = "transpose" in name or next((value for value in arguments if isinstance(value, bool)), False)
    lists = [value for value in arguments if isinstance(value, list) and len(value) == 3] or [[1] * 3, [0] * 3]
    stride, padding = (lists[place] for place in STRIDE_AND_PADDING.get(name, (0, 1)))
    extent = convolution_extent(x[2:], weight[2:], stride, padding, transposed)
    return convolution_flop(weight, x, [x[0], weight[1 if transposed else 0], *extent], transposed)
