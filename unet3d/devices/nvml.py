"""The one reader of NVIDIA's management library (package nvidia-ml-py): energy, clocks, driver, load of a GPU."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Protocol, cast


class Library(Protocol):
    """What is used of the module `pynvml`."""

    NVMLError: type[Exception]
    NVML_CLOCK_SM: int
    NVML_CLOCK_MEM: int
    NVML_TEMPERATURE_GPU: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int: ...
    def nvmlDeviceGetClockInfo(self, handle: object, domain: int) -> int: ...
    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: object) -> int: ...
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Utilisation: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory: ...


class Utilisation(Protocol):
    gpu: int


class Memory(Protocol):
    used: int


class Unavailable(Exception):
    """Package, driver or GPU is missing; the text says which, as what to do or as NVML said it."""


def _import_library() -> Library:
    try:
        return cast("Library", importlib.import_module("pynvml"))
    except ImportError:
        raise Unavailable("pip install nvidia-ml-py") from None


class Nvml:
    """Readings of one GPU; a `PowerSource` too, where its generation has an energy counter."""

    name = "NVML"

    def __init__(self, library: Library, handle: object):
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, uuid: object, library: Library | None = None) -> Nvml:
        """The GPU that PyTorch's properties give this UUID, because NVML's numbers do not follow CUDA_VISIBLE_DEVICES.

        Raises:
            Unavailable: where package, driver or GPU is missing.
        """
        library = _import_library() if library is None else library
        try:
            library.nvmlInit()
            return cls(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except Exception as error:  # noqa: BLE001 - NVML's errors are of the library that may be missing
            raise Unavailable(f"NVML: {error}") from None

    def joules(self) -> float:
        return self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def clocks_mhz(self) -> dict[str, int]:
        library = self._library
        clocks = {}
        for domain, number in (("core", library.NVML_CLOCK_SM), ("memory", library.NVML_CLOCK_MEM)):
            with contextlib.suppress(library.NVMLError):
                clocks[domain] = library.nvmlDeviceGetClockInfo(self._handle, number)
        return clocks

    def load(self) -> dict[str, float]:
        """Utilisation, temperature, memory and power, by telemetry's names; without those that this GPU refuses."""
        library, handle = self._library, self._handle
        readings: dict[str, Callable[[], float]] = {
            "gpu_utilisation_percent": lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu,
            "gpu_temperature_c": lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU),
            "gpu_memory_bytes": lambda: library.nvmlDeviceGetMemoryInfo(handle).used,
            "gpu_power_w": lambda: library.nvmlDeviceGetPowerUsage(handle) / 1e3,
        }
        metrics = {}
        for metric, reading in readings.items():
            with contextlib.suppress(library.NVMLError):
                metrics[metric] = float(reading())
        return metrics

    def close(self) -> None:
        self._library.nvmlShutdown()


def open_counter(uuid: object) -> Nvml | None:
    """The GPU's reader where it counts energy; None where anything for that is missing."""
    try:
        reader = Nvml.open(uuid)
        reader.joules()
    except Exception:  # noqa: BLE001 - any failure means that this machine offers no reading
        return None
    return reader


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None where NVML cannot say it."""
    with contextlib.suppress(Exception):
        library = _import_library()
        library.nvmlInit()
        try:
            return library.nvmlSystemGetDriverVersion()
        finally:
            library.nvmlShutdown()
    return None
