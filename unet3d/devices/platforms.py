"""Platforms as users name them (Flex, Max, CUDA, CPU) and the devices behind them."""

from __future__ import annotations

from unet3d.devices import process
from unet3d.devices.base import Device
from unet3d.devices.registry import KINDS, PLATFORMS, accelerators, device_class, open_device
from unet3d.errors import UserError


def select(platform: str | None, index: int = 0) -> tuple[Device, str, str]:
    """The device of a platform, or of the best platform that is there: (device, platform, what was detected).

    Raises:
        UserError: when the machine or this PyTorch has no device of the platform that was asked for, or has another
            platform's device of the same kind (an Intel GPU of the other series); when PyTorch cannot be imported.
    """
    process.import_torch()
    if platform is not None:
        device = open_device(PLATFORMS[platform], index)
        real = device.platform()
        if real != platform:
            raise UserError(
                f"PLATFORM={platform}, but this machine has a {device.properties().name}; "
                f"use PLATFORM={real}, so that results carry the right name"
            )
        return device, platform, "as set"
    for kind in accelerators():
        if device_class(kind).is_available():
            device = open_device(kind, index)
            return device, device.platform(), f"detected: {device.properties().name}"
    device = open_device(next(kind for kind in KINDS if device_class(kind).is_host))
    return device, device.platform(), f"detected: no GPU that this PyTorch can use, {device.properties().name}"
