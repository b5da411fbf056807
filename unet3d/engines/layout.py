"""The layout of volumes in memory: the host has a modality after the other, the network wants those of a voxel side by side.

A device changes the layout in one pass over its memory. A host needs several times as long for it as for the data type alone.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from unet3d.workload import MODALITIES

if TYPE_CHECKING:
    import torch


def innermost(volumes: torch.Tensor) -> torch.Tensor:
    """Volumes [N, C, z, y, x] in channels_last_3d where they are; these themselves if they are so already."""
    import torch

    if volumes.is_contiguous(memory_format=torch.channels_last_3d):
        return volumes
    place = torch.empty_like(volumes, memory_format=torch.channels_last_3d)
    fill(place, volumes)
    return place


def fill(place: torch.Tensor, volumes: torch.Tensor) -> None:
    """Copy volumes of the same shape and type, from this device or the host, in any layout, on the current queue."""
    if volumes.stride() == place.stride():
        place.copy_(volumes, non_blocking=True)
        return
    there = volumes.to(place.device, non_blocking=True)
    if _has_kernel(place, there):
        from unet3d.network.triton_ops import interleave

        interleave.interleave(there, place)
    else:
        place.copy_(there)


def _has_kernel(place: torch.Tensor, volumes: torch.Tensor) -> bool:
    import torch

    return (
        place.device.type != "cpu"
        and volumes.shape[1] == len(MODALITIES)
        and volumes.is_contiguous()
        and place.is_contiguous(memory_format=torch.channels_last_3d)
        and importlib.util.find_spec("triton") is not None
    )
