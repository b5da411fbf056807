"""The verbs of every device. What runs a benchmark knows these and no other word about hardware.

A device is made by `open_device(kind, index)`; its class says what exists, the instance acts on one device (a whole
GPU, one tile of it, or the CPU)::

    device = open_device("cuda")
    staged = device.pin(host_tensor)       # outside the timed region
    on_device = device.upload(staged)      # starts a copy, ordered before later work on the device
    ...                                    # network
    device.synchronize()                   # everything that was started is finished: a clock may be read now
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from unet3d.errors import UserError

if TYPE_CHECKING:
    import torch

CLASSES = {
    "cpu": ("unet3d.devices.cpu", "CpuDevice"),
    "cuda": ("unet3d.devices.cuda", "CudaDevice"),
    "xpu": ("unet3d.devices.xpu", "XpuDevice"),
}


@dataclass(frozen=True)
class Properties:
    """What a device is, as its driver reports it; None where it does not say."""

    name: str
    memory_bytes: int
    driver: str | None
    # Streaming multiprocessors of an NVIDIA GPU, execution units (vector engines) of an Intel GPU, cores of a CPU.
    compute_units: int
    compute_unit_name: str
    architecture: str | None  # "sm_90", "12.60.7", "x86_64"
    details: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class PowerSource(Protocol):
    """A cumulative energy counter of one device: joules between two readings, whoever used them."""

    name: str  # the software that reads it, such as "NVML"

    def joules(self) -> float:
        """Energy since some fixed moment; the difference of two readings is what was used between them."""
        ...

    def clocks_mhz(self) -> dict[str, int]:
        """Present clock rates by domain ("core", "memory"); empty where they cannot be read."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Device(Protocol):
    """One device; `kind` is torch's device type and `index` its number among those visible to the process."""

    kind: str
    index: int

    @classmethod
    def is_available(cls) -> bool:
        """Whether this PyTorch can use a device of this kind now."""
        ...

    @classmethod
    def count(cls) -> int:
        """Devices (or tiles that count as devices) visible to the process."""
        ...

    @classmethod
    def why_unavailable(cls) -> str:
        """One line: what is missing and the remedy; empty when the device can be used."""
        ...

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def supports_graphs(self) -> bool:
        """Whether a sequence of kernel launches can be captured once and replayed."""
        ...

    def properties(self) -> Properties: ...

    def tiles(self) -> list[str]:
        """Names of the tiles that stand behind this device, such as ["0.0", "0.1"]; one entry if it has no tiles."""
        ...

    def select(self) -> None:
        """Make this the calling thread's current device."""
        ...

    def synchronize(self) -> None:
        """Return when all work given to the device is finished."""
        ...

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host tensor in memory that the device can read without a further copy."""
        ...

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device without waiting; work started later in this thread sees the finished copy."""
        ...

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the host, finished on return."""
        ...

    def peak_memory(self) -> int:
        """Most bytes in use on the device since the last reset; of the process for a CPU."""
        ...

    def reset_peak_memory(self) -> None: ...

    def empty_cache(self) -> None:
        """Give unused cached memory back to the driver."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception says that this device's memory was not enough."""
        ...

    def power_source(self) -> PowerSource | None:
        """The device's energy counter, or None where none can be read."""
        ...

    def warnings(self, precision: str) -> list[tuple[str, str]]:
        """Known defects of the software in use, as (name, what happens and the remedy)."""
        ...


def device_class(kind: str) -> type[Device]:
    """The class for "cpu", "cuda" or "xpu".

    Raises:
        UserError: for another kind.
    """
    if kind not in CLASSES:
        raise UserError(f"device is {kind!r}; allowed are {', '.join(CLASSES)}; choose one of them.")
    module, name = CLASSES[kind]
    return getattr(importlib.import_module(module), name)


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
