"""Which form computes each convolution of the GPU's network: what was measured to be fastest, by architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from unet3d.config.precisions import PRECISIONS
from unet3d.network.cuda_ops import kernels, layers
from unet3d.network.triton_ops.conv import MODALITIES

HALF = tuple(precision.dtype() for precision in PRECISIONS.values() if precision.half)
Chooser = Callable[[nn.Conv3d, bool], str]  # the form of a convolution, which may multiply bytes or may not


def triton_sm_90(conv: nn.Conv3d, in_bytes: bool = False) -> str:
    """Forms that were fastest on an H100 of those without CUDA C++ (benchmarks/gpu_layers.py): marching from 32 channels
    to 32, by planes where outputs are few for the inputs."""
    if conv.stride != (1, 1, 1):
        return "library"
    if conv.in_channels == conv.out_channels == 32:
        return "march"
    few = conv.out_channels <= 32 or (conv.out_channels <= 128 and conv.in_channels >= 2 * conv.out_channels)
    return "planes" if conv.in_channels >= 32 and few else "library"


def sm_90(conv: nn.Conv3d, in_bytes: bool = False) -> str:
    """Forms that were fastest on an H100: walking wherever all weights of a program's outputs fit into shared memory.

    in_bytes: whether it may multiply bytes, of which more fit.
    """
    inputs, outputs = conv.in_channels, conv.out_channels
    if conv.stride == (2, 2, 2) and inputs == layers.SLAB and outputs % layers.STRIDE_OUT == 0:
        return "cuda stride"
    if conv.stride != (1, 1, 1):
        return "library"
    operand = layers.BYTES if in_bytes else layers.HALF
    if inputs % layers.SLAB == 0 and outputs % layers.OUT == 0 and inputs <= operand.most_inputs:
        return "cuda walk"
    if inputs == layers.MODALITIES and outputs == layers.OUT:
        return "cuda first"
    return triton_sm_90(conv)


def elsewhere(conv: nn.Conv3d, in_bytes: bool = False) -> str:
    """On other architectures nothing was measured: the library computes what it can."""
    return "library"


def chooser(architecture: str | None) -> Chooser:
    """What chooses the convolutions' forms on a device of this architecture, as it names it ("sm_90")."""
    if architecture != kernels.ARCHITECTURE:
        return elsewhere
    return triton_sm_90 if kernels.why_not(architecture) else sm_90


def form_of(conv: nn.Conv3d, dtype: torch.dtype, choose: Chooser, in_bytes: bool = False) -> str:
    """Which form computes this convolution, a key of those that `Block` packs weights for."""
    if dtype not in HALF or conv.kernel_size != (3, 3, 3) or conv.padding != (1, 1, 1):
        return "library"
    form = choose(conv, in_bytes)
    return "first" if conv.in_channels == MODALITIES and conv.stride == (1, 1, 1) and form != "cuda first" else form
