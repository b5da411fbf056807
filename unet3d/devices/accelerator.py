"""What CUDA and Intel XPU devices have in common, which is nearly everything: torch.cuda and torch.xpu by one name.

A subclass names its kind and adds what only its hardware has: driver, architecture, tiles, power.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from unet3d.devices import known_issues
from unet3d.devices.base import PowerSource, Properties

if TYPE_CHECKING:
    import torch


class AcceleratorDevice:
    """See `unet3d.devices.base.Device`."""

    kind: str
    compute_unit_name: str
    capture_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, index: int = 0):
        self.index = index
        self.select()

    @classmethod
    def runtime(cls) -> Any:
        """torch.cuda or torch.xpu."""
        import torch

        return getattr(torch, cls.kind)

    @classmethod
    def is_available(cls) -> bool:
        return cls.runtime().is_available()

    @classmethod
    def count(cls) -> int:
        return cls.runtime().device_count()

    @classmethod
    def why_unavailable(cls) -> str:
        raise NotImplementedError

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.kind, self.index)

    @property
    def supports_graphs(self) -> bool:
        return self.graph_class() is not None

    @classmethod
    def graph_class(cls) -> Any:
        """torch.cuda.CUDAGraph, or XPUGraph in the versions of PyTorch that have it, else None."""
        return getattr(cls.runtime(), f"{cls.kind.upper()}Graph", None)

    @classmethod
    def capture(cls, call: Callable[[], Any]) -> tuple[Any, Any]:
        """Record the kernels that `call` launches: (graph with replay(), what the call returned, its memory reused)."""
        graph = cls.graph_class()()
        with cls.runtime().graph(graph, **cls.capture_options):
            result = call()
        return graph, result

    def properties(self) -> Properties:
        found = self.runtime().get_device_properties(self.index)
        return Properties(
            name=found.name,
            memory_bytes=found.total_memory,
            driver=self.driver(),
            compute_units=self.compute_units(found),
            compute_unit_name=self.compute_unit_name,
            architecture=self.architecture(found),
        )

    def driver(self) -> str | None:
        raise NotImplementedError

    def compute_units(self, found: Any) -> int:
        raise NotImplementedError

    def architecture(self, found: Any) -> str | None:
        raise NotImplementedError

    def tiles(self) -> list[str]:
        return [str(self.index)]

    def select(self) -> None:
        self.runtime().set_device(self.index)

    def synchronize(self) -> None:
        self.runtime().synchronize(self.index)

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory()

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.torch_device, non_blocking=True)

    def download(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu()

    def peak_memory(self) -> int:
        return self.runtime().max_memory_reserved(self.index)

    def reset_peak_memory(self) -> None:
        self.runtime().reset_peak_memory_stats(self.index)

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

    def _open_power_source(self) -> PowerSource | None:
        raise NotImplementedError

    def warnings(self, precision: str) -> list[tuple[str, str]]:
        import torch

        return known_issues.find(self.kind, precision, torch.__version__, self.cudnn_version())

    @classmethod
    def cudnn_version(cls) -> int | None:
        return None
