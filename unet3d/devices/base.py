"""The verbs of every device. What runs a benchmark knows these and no other word about hardware.

A device is made by `registry.open_device(kind, index)`; its class says what exists, the instance acts on one device (a
whole GPU, one tile of it, or the CPU)::

    device = open_device("cuda")
    staged = device.pin(host_tensor)       # outside the timed region
    on_device = device.upload(staged)      # starts a copy, ordered before later work on the device
    ...                                    # network
    device.synchronize()                   # everything that was started is finished: a clock may be read now
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


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


class Graph(Protocol):
    """Kernel launches that were recorded once, of a whole forward pass."""

    def replay(self) -> None: ...


class DeviceStream(Protocol):
    """A queue of work on a device, beside its others."""

    def synchronize(self) -> None: ...


class DeviceEvent(Protocol):
    """A moment in a queue of work, by the device's clock."""

    def record(self) -> None:
        """Be the moment at which what the calling thread's current queue holds by now is finished."""
        ...

    def wait(self) -> None:
        """What is put into the calling thread's current queue from now on begins after the moment."""
        ...

    def synchronize(self) -> None:
        """Return when the moment is over."""
        ...

    def elapsed_time(self, later: Self) -> float:
        """Milliseconds from this moment to a later one, both over."""
        ...


@runtime_checkable
class Device(Protocol):
    """One device; `kind` is torch's device type and `index` its number among those visible to the process."""

    kind: str
    index: int

    # What is true of every device of the kind.

    is_host: ClassVar[bool]  # the CPU that runs this process: its memory is the host's, its calls are finished on return
    # Environment variable that chooses which devices or tiles the process sees; None where there is no such thing.
    visibility_variable: ClassVar[str | None]
    # Platforms of this kind whose cards have a single tile each, so that there is nothing to take several of.
    single_tile_platforms: ClassVar[frozenset[str]]
    # Names of the sources in unet3d.measure.telemetry beside those of the host.
    telemetry_sources: ClassVar[tuple[str, ...]]
    copy_bytes: ClassVar[int]  # of a tensor so large that copying it measures memory and not caches

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

    @classmethod
    def visible_names(cls) -> list[str]:
        """Each visible device or tile as `visibility_variable` names it; empty where there is no such variable.

        Raises:
            UserError: where the environment leaves open which device is which.
        """
        ...

    @classmethod
    def variables_for(cls, name: str) -> dict[str, str]:
        """Environment variables that show a process the device or tile of this name (of `visible_names`) alone."""
        ...

    @classmethod
    def place_name(cls, name: str) -> str:
        """The device or tile of this name as users know it, such as "GPU 1" or "tile 0.1"."""
        ...

    @classmethod
    def graph_class(cls) -> Callable[[], Graph] | None:
        """PyTorch's class that records launches on this kind; None where this PyTorch has none."""
        ...

    @classmethod
    def triton_programs(cls, index: int | None) -> int:
        """How many programs of a Triton kernel keep the device of this number (None: the current one) busy."""
        ...

    # What one device does.

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def supports_graphs(self) -> bool:
        """Whether a sequence of kernel launches can be captured once and replayed."""
        ...

    def platform(self) -> str:
        """The platform as users name it: Flex, Max, CUDA, CPU."""
        ...

    def properties(self) -> Properties: ...

    def tiles(self) -> list[str]:
        """Names of the tiles that stand behind this device, such as ["0.0", "0.1"]; one entry if it has no tiles."""
        ...

    def pci_address(self) -> str | None:
        """Where it is attached, such as "0000:3b:00.0"; None for the host, and where PyTorch does not know."""
        ...

    def select(self) -> None:
        """Make this the calling thread's current device."""
        ...

    def synchronize(self) -> None:
        """Return when all work given to the device is finished."""
        ...

    def new_stream(self) -> DeviceStream | None:
        """A queue of its own for one of several calls in flight; None where calls are finished when they return."""
        ...

    def on_stream(self, stream: DeviceStream) -> AbstractContextManager[object]:
        """Work that the calling thread starts inside goes to this queue."""
        ...

    @property
    def times_events(self) -> bool:
        """Whether there are events, with times between them."""
        ...

    def new_event(self) -> DeviceEvent:
        """An event that can be timed. Only where `times_events`."""
        ...

    def capture(self, call: Callable[[], Result]) -> tuple[Graph, Result]:
        """Record the kernels that `call` launches: (graph, what the call returned, whose memory a replay fills anew).

        Only where `supports_graphs`.
        """
        ...

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host tensor in memory that the device can read without a further copy."""
        ...

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device without waiting; work started later in this thread sees the finished copy."""
        ...

    def peak_memory(self) -> int:
        """Most bytes in use on the device since the last reset; of the process for a CPU."""
        ...

    def reset_peak_memory(self) -> None: ...

    def memory_outside_pytorch(self) -> int:
        """Bytes in use on the device that PyTorch's allocator does not hold, whoever has them; 0 for a CPU."""
        ...

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
