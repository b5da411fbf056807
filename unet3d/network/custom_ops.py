"""How a kernel of ours becomes an operator of PyTorch, so that traces, torch.compile and the profiler know it.

Operators that compute a convolution have names beginning with conv; the engine reads from them in which data type the
network ran. Nothing is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from unet3d.network.triton_ops.layout import new_volume

_LIBRARY = torch.library.Library("unet3d", "FRAGMENT")


def operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as torch.ops.unet3d.*; `fake` makes outputs of the right shape, type and strides
    without computing."""
    name = schema.split("(", maxsplit=1)[0]

    def register(function: Callable) -> Callable:
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"unet3d::{name}", fake, lib=_LIBRARY)
        return function

    return register


def fake_scales(x: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift [N, channels] of a raw volume."""
    return (x.new_empty((x.shape[0], channels), dtype=torch.float32), x.new_empty((x.shape[0], channels), dtype=torch.float32))


def fake_conv(x: torch.Tensor, channels: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A raw volume of x's extents, its scale and its shift."""
    return (new_volume(x.shape[0], channels, x.shape[2:], like), *fake_scales(x, channels))
