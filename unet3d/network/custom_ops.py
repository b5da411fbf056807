"""How a kernel of ours becomes an operator of PyTorch, so that traces, torch.compile and the profiler know it.

Operators that compute a convolution have names beginning with conv; the engine reads from them in which data type the
network ran. Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch

from unet3d.network.triton_ops.layout import new_volume

_LIBRARY = torch.library.Library("unet3d", "FRAGMENT")
# FLOP of a call from the shapes of its arguments, empty where they are no tensors.
Flop = Callable[[Sequence[Sequence[int]]], int]
_FLOP: dict[str, Flop] = {}


def operator(schema: str, fake: Callable, flop: Flop | None = None) -> Callable[[Callable], Callable]:
    """Register the decorated function as torch.ops.unet3d.*

    fake: makes outputs of the right shape, type and strides without computing. flop: of a direct convolution, for those
    that compute one.
    """
    name = schema.split("(", maxsplit=1)[0]

    def register(function: Callable) -> Callable:
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"unet3d::{name}", fake, lib=_LIBRARY)
        if flop is not None:
            _FLOP[f"unet3d::{name}"] = flop
        return function

    return register


def head_operator(name: str) -> Callable[[Callable], Callable]:
    """Register the decorated function as torch.ops.unet3d.<name>, which makes logits from the raw output of the last block."""
    return operator(
        f"{name}(Tensor x, Tensor scale, Tensor shift, float slope, Tensor w, Tensor? bias) -> Tensor",
        lambda x, scale, shift, slope, w, bias: new_volume(x.shape[0], w.shape[1], x.shape[2:], w),
        lambda shapes: each(prod(shapes[4]), shapes[0]),
    )


def flop_of(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """FLOP that operator `name` (unet3d::conv_head) declares for arguments of these shapes; 0 for no convolution."""
    return _FLOP[name](shapes) if name in _FLOP else 0


def neighbours(inputs: int, outputs: int, volume: Sequence[int], stride: int = 1) -> int:
    """FLOP of a 3x3x3 convolution of a volume [N, C, D, H, W] between so many channels."""
    return 2 * 27 * inputs * outputs * volume[0] * prod((extent + stride - 1) // stride for extent in volume[2:])


def each(weights: int, volume: Sequence[int]) -> int:
    """FLOP of products of every voxel of a volume [N, C, D, H, W] with so many weights."""
    return 2 * weights * volume[0] * prod(volume[2:])


def fake_scales(x: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift [N, channels] of a raw volume."""
    return (x.new_empty((x.shape[0], channels), dtype=torch.float32), x.new_empty((x.shape[0], channels), dtype=torch.float32))


def fake_conv(x: torch.Tensor, channels: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A raw volume of x's extents, its scale and its shift."""
    return (new_volume(x.shape[0], channels, x.shape[2:], like), *fake_scales(x, channels))
