"""The kinds of device, a line each: importing this imports none of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from unet3d.devices.base import Device
from unet3d.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A kind of device: torch's name of it, its class, and the platforms that users know it by."""

    name: str
    module: str
    class_name: str
    platforms: tuple[str, ...]


# In the order in which a machine's best device is looked for.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("cuda", "unet3d.devices.cuda", "CudaDevice", ("CUDA",)),
        Kind("xpu", "unet3d.devices.xpu", "XpuDevice", ("Flex", "Max")),
        Kind("cpu", "unet3d.devices.cpu", "CpuDevice", ("CPU",)),
    )
}
# The kind of each platform.
PLATFORMS: dict[str, str] = {platform: kind.name for kind in KINDS.values() for platform in kind.platforms}


def device_class(kind: str) -> type[Device]:
    """The class for "cpu", "cuda" or "xpu".

    Raises:
        UserError: for another kind.
    """
    if kind not in KINDS:
        raise UserError(f"device is {kind!r}; allowed are {', '.join(sorted(KINDS))}; choose one of them.")
    module = importlib.import_module(KINDS[kind].module)
    return cast("type[Device]", getattr(module, KINDS[kind].class_name))


def class_of_platform(platform: str) -> type[Device]:
    """The class of the devices that users call Flex, Max, CUDA or CPU."""
    return device_class(PLATFORMS[platform])


def accelerators() -> list[str]:
    """The kinds that are not the host itself."""
    return [kind for kind in KINDS if not device_class(kind).is_host]


def open_device(kind: str, index: int = 0) -> Device:
    """The device with this number.

    Raises:
        UserError: when the machine or this PyTorch has no such device; says what is missing.
    """
    cls = device_class(kind)
    if not cls.is_available():
        raise UserError(cls.why_unavailable())
    if not 0 <= index < cls.count():
        raise UserError(
            f"device {kind}:{index} does not exist; this process sees {cls.count()}, numbered from 0; "
            "choose one of them or set the variable that hides the others."
        )
    make: Callable[[int], Device] = cls
    return make(index)
