"""What CUDA and Intel XPU devices have in common, which is nearly everything: torch.cuda and torch.xpu by one name.

A subclass names its kind and adds what only its hardware has: driver, architecture, tiles, power, names.
"""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Protocol, cast

from unet3d.devices import known_issues
from unet3d.devices.base import DeviceEvent, DeviceStream, Graph, PowerSource, Properties, Result

if TYPE_CHECKING:
    import torch


class DriverProperties(Protocol):
    """What every accelerator's get_device_properties tells; each kind has more, read by name."""

    name: str
    total_memory: int


class Runtime(Protocol):
    """What torch.cuda and torch.xpu both offer."""

    def is_available(self) -> bool: ...
    def device_count(self) -> int: ...
    def get_device_properties(self, index: int | None) -> DriverProperties: ...
    def set_device(self, index: int) -> None: ...
    def synchronize(self, index: int) -> None: ...
    def Stream(self) -> DeviceStream: ...
    def Event(self, *, enable_timing: bool) -> DeviceEvent: ...
    def stream(self, stream: DeviceStream) -> AbstractContextManager[object]: ...
    def graph(self, graph: Graph, **options: str) -> AbstractContextManager[object]: ...
    def max_memory_reserved(self, index: int) -> int: ...
    def reset_peak_memory_stats(self, index: int) -> None: ...
    def mem_get_info(self, index: int) -> tuple[int, int]: ...
    def memory_reserved(self, index: int) -> int: ...
    def empty_cache(self) -> None: ...


class AcceleratorDevice(ABC):
    """See `unet3d.devices.base.Device`."""

    kind: str
    compute_unit_name: ClassVar[str]
    capture_options: ClassVar[dict[str, str]] = {}

    is_host: ClassVar[bool] = False
    visibility_variable: ClassVar[str | None]
    single_tile_platforms: ClassVar[frozenset[str]] = frozenset()
    telemetry_sources: ClassVar[tuple[str, ...]]
    copy_bytes: ClassVar[int] = 2**30

    def __init__(self, index: int = 0):
        self.index = index
        self.select()

    @classmethod
    def runtime(cls) -> Runtime:
        """torch.cuda or torch.xpu."""
        import torch

        return cast("Runtime", getattr(torch, cls.kind))

    @classmethod
    def is_available(cls) -> bool:
        return cls.runtime().is_available()

    @classmethod
    def count(cls) -> int:
        return cls.runtime().device_count()

    @classmethod
    @abstractmethod
    def why_unavailable(cls) -> str: ...

    @classmethod
    def visible_names(cls) -> list[str]:
        return cls._chosen_names()

    @classmethod
    def _chosen_names(cls) -> list[str]:
        """What the visibility variable has chosen already, else the numbers from 0."""
        chosen = os.environ.get(cls.visibility_variable, "") if cls.visibility_variable else ""
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        count = cls.count()
        return (names or [str(index) for index in range(count)])[:count]

    @classmethod
    def variables_for(cls, name: str) -> dict[str, str]:
        return {cls.visibility_variable: name} if cls.visibility_variable else {}

    @classmethod
    @abstractmethod
    def place_name(cls, name: str) -> str: ...

    @classmethod
    def graph_class(cls) -> Callable[[], Graph] | None:
        """torch.cuda.CUDAGraph, or XPUGraph in the versions of PyTorch that have it, else None."""
        return cast("Callable[[], Graph] | None", getattr(cls.runtime(), f"{cls.kind.upper()}Graph", None))

    @classmethod
    @abstractmethod
    def triton_programs(cls, index: int | None) -> int: ...

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.kind, self.index)

    @property
    def supports_graphs(self) -> bool:
        return self.graph_class() is not None

    @abstractmethod
    def platform(self) -> str: ...

    def _told(self) -> DriverProperties:
        """The driver's properties of this device."""
        return self.runtime().get_device_properties(self.index)

    def properties(self) -> Properties:
        told = self._told()
        return Properties(
            name=told.name,
            memory_bytes=told.total_memory,
            driver=self.driver(),
            compute_units=self.compute_units(),
            compute_unit_name=self.compute_unit_name,
            architecture=self.architecture(),
        )

    @abstractmethod
    def driver(self) -> str | None:
        """Version of the device's driver."""

    @abstractmethod
    def compute_units(self) -> int: ...

    @abstractmethod
    def architecture(self) -> str | None: ...

    def tiles(self) -> list[str]:
        return [str(self.index)]

    def pci_address(self) -> str | None:
        told = self._told()
        bus, number = getattr(told, "pci_bus_id", None), getattr(told, "pci_device_id", None)
        if bus is None or number is None:
            return None
        return f"{getattr(told, 'pci_domain_id', 0):04x}:{bus:02x}:{number:02x}.0"

    def select(self) -> None:
        self.runtime().set_device(self.index)

    def synchronize(self) -> None:
        self.runtime().synchronize(self.index)

    def new_stream(self) -> DeviceStream | None:
        return self.runtime().Stream()

    def on_stream(self, stream: DeviceStream) -> AbstractContextManager[object]:
        return self.runtime().stream(stream)

    @functools.cached_property
    def times_events(self) -> bool:
        """Tried once: not every release of PyTorch times events on every kind of device."""
        try:
            first, second = self.new_event(), self.new_event()
            first.record()
            second.record()
            second.synchronize()
            return first.elapsed_time(second) >= 0
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False

    def new_event(self) -> DeviceEvent:
        return self.runtime().Event(enable_timing=True)

    def capture(self, call: Callable[[], Result]) -> tuple[Graph, Result]:
        make = self.graph_class()
        if make is None:
            raise RuntimeError(f"this PyTorch records no launches on {self.kind}")
        graph = make()
        with self.runtime().graph(graph, **self.capture_options):
            result = call()
        return graph, result

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory()

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.torch_device, non_blocking=True)

    def peak_memory(self) -> int:
        return self.runtime().max_memory_reserved(self.index)

    def reset_peak_memory(self) -> None:
        self.runtime().reset_peak_memory_stats(self.index)

    def memory_outside_pytorch(self) -> int:
        free, total = self.runtime().mem_get_info(self.index)
        return total - free - self.runtime().memory_reserved(self.index)

    def empty_cache(self) -> None:
        self.runtime().empty_cache()

    def is_out_of_memory(self, error: BaseException) -> bool:
        import torch

        return isinstance(error, torch.OutOfMemoryError)

    @functools.cached_property
    def _power(self) -> PowerSource | None:
        return self._open_power_source()

    def power_source(self) -> PowerSource | None:
        return self._power

    @abstractmethod
    def _open_power_source(self) -> PowerSource | None: ...

    def warnings(self, precision: str) -> list[tuple[str, str]]:
        import torch

        rocm = torch.version.hip is not None
        return known_issues.find(self.kind, precision, torch.__version__, self.cudnn_version(), rocm)

    @classmethod
    def cudnn_version(cls) -> int | None:
        return None
