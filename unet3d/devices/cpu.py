"""The host's CPU as a device: nothing is copied, and nothing is outstanding when a call returns."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from unet3d.devices import host
from unet3d.devices.base import PowerSource, Properties

if TYPE_CHECKING:
    import torch


class CpuDevice:
    """See `unet3d.devices.base.Device`."""

    kind = "cpu"
    supports_graphs = False

    def __init__(self, index: int = 0):
        self.index = index

    @classmethod
    def is_available(cls) -> bool:
        return True

    @classmethod
    def count(cls) -> int:
        return 1

    @classmethod
    def why_unavailable(cls) -> str:
        return ""

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    def properties(self) -> Properties:
        hardware = host.hardware()
        return Properties(
            name=hardware["cpu"],
            memory_bytes=hardware["memory_bytes"],
            driver=None,
            compute_units=hardware["usable_cores"],
            compute_unit_name="cores",
            architecture=hardware["architecture"],
            details={"instructions": hardware["instructions"]},
        )

    def tiles(self) -> list[str]:
        return ["0"]

    def select(self) -> None:
        """The CPU is always current."""

    def synchronize(self) -> None:
        """Calls on the CPU have finished when they return."""

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def peak_memory(self) -> int:
        return host.peak_memory()

    def reset_peak_memory(self) -> None:
        host.reset_peak_memory()

    def empty_cache(self) -> None:
        gc.collect()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or "not enough memory" in str(error)

    def power_source(self) -> PowerSource | None:
        return None

    def warnings(self, precision: str) -> list[tuple[str, str]]:
        import torch

        from unet3d.devices import known_issues

        return known_issues.find("cpu", precision, torch.__version__)
