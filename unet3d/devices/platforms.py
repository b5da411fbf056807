"""Platforms as users name them (Flex, Max, CUDA, CPU) and the devices behind them."""

from __future__ import annotations

from unet3d.devices.base import Device, device_class, open_device
from unet3d.errors import UserError

KINDS = {"Flex": "xpu", "Max": "xpu", "CUDA": "cuda", "CPU": "cpu"}


def intel_platform(device_name: str) -> str:
    """Flex or Max from the name that the driver gives; an Intel GPU of another series runs as Flex does."""
    return "Max" if "max" in device_name.casefold() else "Flex"


def select(platform: str | None, index: int = 0) -> tuple[Device, str, str]:
    """The device of a platform, or of the best platform that is there: (device, platform, what was detected).

    Raises:
        UserError: when the machine or this PyTorch has no device of the platform that was asked for, or has an Intel
            GPU of the other series.
    """
    if platform is not None:
        device = open_device(KINDS[platform], index)
        if KINDS[platform] == "xpu":
            found = intel_platform(device.properties().name)
            if found != platform:
                raise UserError(
                    f"PLATFORM={platform}, but this machine has a {device.properties().name}; "
                    f"use PLATFORM={found}, so that results carry the right name"
                )
        return device, platform, "as set"
    for kind in ("cuda", "xpu"):
        if device_class(kind).is_available():
            device = open_device(kind, index)
            name = device.properties().name
            return device, "CUDA" if kind == "cuda" else intel_platform(name), f"detected: {name}"
    device = open_device("cpu")
    return device, "CPU", f"detected: no GPU that this PyTorch can use, {device.properties().name}"
