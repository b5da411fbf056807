"""What the convolutions of an inference really got, as PyTorch's profiler saw them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from unet3d.config.precisions import name_of_type
from unet3d.engines.pytorch import ipex_witness, operators
from unet3d.network.cpu_ops import ops

# Operators that compute a convolution, as the profiler names them; ours for GPUs are registered as unet3d::conv….
CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "mkldnn::_convolution", "torch_ipex::", "unet3d::conv", ops.CONV)
# A data type that computes more than this share of the FLOP names the run.
MAIN = 0.9


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
        import torch

        with (
            ipex_witness.observing(self.observed) if self._ipex_packed else contextlib.nullcontext(),
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile,
        ):
            yield
        for event in profile.profiler.kineto_results.events():
            if event.name().startswith(CONVOLUTIONS) and event.dtypes():
                self._note(event)

    def _note(self, event: Any) -> None:
        name, types = event.name(), event.dtypes()
        computed = name_of_type(ops.computed_in(types) if name == ops.CONV else types[0])
        self.observed.setdefault(computed, set()).add(name)
        shapes = [list(shape) for shape in event.shapes()]
        self._flop[computed] += operators.work(name, shapes, event.concrete_inputs(), 1)[0]

    def precision(self) -> str:
        """The data type that nearly all convolutions got, else all of them."""
        total = sum(self._flop.values())
        for name, flop in self._flop.items():
            if total and flop > MAIN * total:
                return name
        return "+".join(sorted(self.observed))
