"""The host's CPU as a device: nothing is copied, and nothing is outstanding when a call returns."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from unet3d.devices import host, known_issues
from unet3d.devices.base import DeviceEvent, DeviceStream, Graph, PowerSource, Properties, Result

if TYPE_CHECKING:
    import torch


class CpuDevice:
    """See `unet3d.devices.base.Device`."""

    kind = "cpu"
    is_host: ClassVar[bool] = True
    visibility_variable: ClassVar[str | None] = None
    single_tile_platforms: ClassVar[frozenset[str]] = frozenset()
    telemetry_sources: ClassVar[tuple[str, ...]] = ()
    copy_bytes: ClassVar[int] = 2**28

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

    @classmethod
    def visible_names(cls) -> list[str]:
        return []

    @classmethod
    def variables_for(cls, name: str) -> dict[str, str]:
        return {}

    @classmethod
    def place_name(cls, name: str) -> str:
        return f"CPU {name}"

    @classmethod
    def graph_class(cls) -> Callable[[], Graph] | None:
        return None

    @classmethod
    def triton_programs(cls, index: int | None) -> int:
        return 4  # of Triton's interpreter

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device("cpu")

    @property
    def supports_graphs(self) -> bool:
        return False

    def platform(self) -> str:
        return "CPU"

    def properties(self) -> Properties:
        hardware = host.hardware()
        return Properties(
            name=hardware["cpu"],
            memory_bytes=hardware["memory_bytes"],
            driver=None,
            compute_units=hardware["usable_cores"],
            compute_unit_name="cores",
            architecture=hardware["architecture"],
        )

    def tiles(self) -> list[str]:
        return ["0"]

    def pci_address(self) -> str | None:
        return None

    def select(self) -> None:
        """The CPU is always current."""

    def synchronize(self) -> None:
        """Calls on the CPU have finished when they return."""

    def new_stream(self) -> DeviceStream | None:
        return None

    def on_stream(self, stream: DeviceStream) -> AbstractContextManager[object]:
        raise NotImplementedError("a CPU has no streams")

    @property
    def times_events(self) -> bool:
        return False

    def new_event(self) -> DeviceEvent:
        raise NotImplementedError("a CPU has no events")

    def capture(self, call: Callable[[], Result]) -> tuple[Graph, Result]:
        raise NotImplementedError("a CPU has no graphs")

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def peak_memory(self) -> int:
        return host.peak_memory()

    def reset_peak_memory(self) -> None:
        host.reset_peak_memory()

    def memory_outside_pytorch(self) -> int:
        return 0

    def empty_cache(self) -> None:
        gc.collect()

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or "not enough memory" in str(error)

    def power_source(self) -> PowerSource | None:
        return None

    def warnings(self, precision: str) -> list[tuple[str, str]]:
        import torch

        return known_issues.find(self.kind, precision, torch.__version__)


if TYPE_CHECKING:
    from unet3d.devices.base import Device

    _conforms: Callable[[int], Device] = CpuDevice
