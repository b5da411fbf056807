"""Which data types the convolutions of an inference really got, by PyTorch's profiler and, where it is blind, oneDNN's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from unet3d.config.precisions import name_of_type

# Operators that compute a convolution, as PyTorch's profiler names them; ours are registered as unet3d::conv….
CONVOLUTIONS = ("aten::convolution", "aten::_convolution", "mkldnn::_convolution", "torch_ipex::", "unet3d::conv")


@contextlib.contextmanager
def observing(observed: dict[str, set[str]], packed: bool) -> Iterator[None]:
    """Add the convolutions that run within to `observed`: names of operators by the precision of their input.

    packed: IPEX has packed them into operators whose inputs the profiler does not see.
    """
    import torch

    from unet3d.engines.pytorch import ipex_witness

    with (
        ipex_witness.observing(observed) if packed else contextlib.nullcontext(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile,
    ):
        yield
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    for event in profile.profiler.kineto_results.events():
        name = event.name()
        if name.startswith(CONVOLUTIONS) and event.dtypes():
            observed.setdefault(name_of_type(event.dtypes()[0]), set()).add(name)
