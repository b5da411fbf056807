"""The fused layers' operators from Python: shapes of their results, as torch.compile asks for them, their FLOP, and the
memory that they keep."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from unet3d.config.precisions import PRECISIONS

if TYPE_CHECKING:
    import torch

CONV, UPSAMPLE, HEAD = "unet3d_fused::conv", "unet3d_fused::upsample", "unet3d_fused::head"
# Places of the arguments in the operators' schemas.
X, SKIP, WEIGHT, STRIDE, GAMMA = 0, 3, 7, 8, 9
UPSAMPLE_WEIGHT = HEAD_WEIGHT = 4


def release_kept() -> int:
    """Give the system back what layers keep from call to call and no tensor lies in; returns how many bytes it is."""
    import torch

    return int(torch.ops.unet3d_fused.release_kept())


def channels_last(x: torch.Tensor, channels: int, extents: list[int]) -> torch.Tensor:
    """[N, channels, *extents] in x's type, channels_last_3d, uninitialised."""
    import torch

    return x.new_empty((x.shape[0], channels, *extents)).contiguous(memory_format=torch.channels_last_3d)


def register_fakes() -> None:
    """Must be called once, after the library was loaded."""
    import torch

    @torch.library.register_fake("unet3d_fused::conv")
    def _(x, scale, shift, skip, skip_scale, skip_shift, slope, weight, stride, gamma, beta, eps, form, quantised=None):
        channels = gamma.shape[0]
        y = channels_last(x, channels, [(n - 1) // stride + 1 for n in x.shape[2:]])
        per_channel = x.new_empty((x.shape[0], channels), dtype=torch.float32)
        return y, per_channel, torch.empty_like(per_channel)

    @torch.library.register_fake("unet3d_fused::upsample")
    def _(x, scale, shift, slope, weight, tiles=False):
        return channels_last(x, weight.numel() // (8 * x.shape[1]), [2 * n for n in x.shape[2:]])

    @torch.library.register_fake("unet3d_fused::head")
    def _(x, scale, shift, slope, weight, bias, tiles=False):
        return channels_last(x, weight.shape[0], list(x.shape[2:]))


def computed_in(types: Sequence[str]) -> str:
    """The data type of a convolution's products as far as it is coarser than its tensors': types of all arguments."""
    return types[WEIGHT] if types[WEIGHT] in PRECISIONS["int8"].type_names else types[X]


def flop(name: str, shapes: Sequence[Sequence[int]], arguments: Sequence[object]) -> int:
    """FLOP of a fused layer as of a direct convolution.

    shapes: of all arguments, empty where they are no tensors. arguments: those that are. Padded channels count as the
    channels that they are for the kernels.
    """
    x = shapes[X]
    if name == CONV:
        skip, stride, outputs = shapes[SKIP], arguments[STRIDE], shapes[GAMMA][0]
        assert isinstance(stride, int)
        inputs = x[1] + (skip[1] if skip else 0)
        return 2 * 27 * inputs * outputs * x[0] * prod((n - 1) // stride + 1 for n in x[2:])
    return 2 * prod(shapes[UPSAMPLE_WEIGHT if name == UPSAMPLE else HEAD_WEIGHT]) * x[0] * prod(x[2:])
