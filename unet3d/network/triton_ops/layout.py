"""Volumes with channels innermost in memory, and how many programs share out one of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from unet3d.devices.registry import device_class

# Channels of the network's input: kernels of the first convolution are written for 4 numbers a voxel.
MODALITIES = 4


def channels_last_strides(x: torch.Tensor) -> tuple[int, int]:
    """(sample stride, voxel stride) in elements of a volume batch [N, C, D, H, W] with channels innermost.

    A slice of the channels of a wider channels-last tensor is allowed. Raises ValueError for any other layout.
    """
    n, c, *extent = x.shape
    # The stride of an axis of one element says nothing.
    voxel = next((x.stride(axis) for axis in (4, 3, 2) if x.shape[axis] > 1), c)
    expected = (None, 1, extent[1] * extent[2] * voxel, extent[2] * voxel, voxel)
    for size, stride, wanted in zip(x.shape, x.stride(), expected, strict=True):
        if wanted is not None and size > 1 and stride != wanted:
            raise ValueError(f"volume {tuple(x.shape)} has strides {x.stride()}, not those of channels_last_3d")
    elements = extent[0] * extent[1] * extent[2] * voxel
    if elements >= 2**31:
        raise ValueError(f"volume of shape {tuple(x.shape)}: one sample has 2**31 elements or more")
    return x.stride(0) if n > 1 else elements, voxel


def new_volume(n: int, c: int, extent: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Uninitialised [n, c, *extent] in channels_last_3d with the dtype and device of `like`."""
    return torch.empty((n, *extent, c), dtype=like.dtype, device=like.device).permute(0, 4, 1, 2, 3)


@functools.cache
def programs_for(device: torch.device) -> int:
    """How many programs keep the device busy, for kernels whose programs share out the volume among themselves."""
    return device_class(device.type).triton_programs(device.index)
