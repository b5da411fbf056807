"""The layout of volumes in memory: the host has a modality after the other, the network wants those of a voxel side by side.

A device changes the layout in one pass over its memory, so that the host changes the data type alone. Where the host computes,
one pass of ours does both: PyTorch's takes up to five times as long.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from unet3d.network.cpu_ops import build
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
    """Copy volumes of the same shape, from this device or the host, in any layout and type, on the current queue."""
    if volumes.stride() == place.stride():
        place.copy_(volumes, non_blocking=True)
        return
    there = volumes if volumes.device == place.device else volumes.to(place.device, non_blocking=True)
    if not (_interleave_on_host(place, there) if place.device.type == "cpu" else _interleave_on_device(place, there)):
        place.copy_(there)


def _interleave_on_host(place: torch.Tensor, volumes: torch.Tensor) -> bool:
    """Fill the place in one pass of ours where there is one for these; whether this was done."""
    import torch

    if not (volumes.dtype == torch.float32 and _by_modalities(place, volumes) and build.has_passes(place.dtype)):
        return False
    torch.ops.unet3d_fused.interleave(volumes, place)
    return True


def _interleave_on_device(place: torch.Tensor, volumes: torch.Tensor) -> bool:
    if not (volumes.dtype == place.dtype and _by_modalities(place, volumes) and importlib.util.find_spec("triton")):
        return False
    from unet3d.network.triton_ops import interleave

    interleave.interleave(volumes, place)
    return True


def _by_modalities(place: torch.Tensor, volumes: torch.Tensor) -> bool:
    import torch

    return (
        volumes.shape[1] == len(MODALITIES)
        and volumes.is_contiguous()
        and place.is_contiguous(memory_format=torch.channels_last_3d)
    )
