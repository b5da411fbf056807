"""Where telemetry comes from: the host's own sources, and those that a device says it has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unet3d.devices import cpu_time, nvml
from unet3d.devices.base import Device
from unet3d.measure.telemetry.source import Absent, Source
from unet3d.measure.telemetry.xpu_smi import XpuSmi

POWERCAP = Path("/sys/class/powercap")
CPUFREQ = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
# Asking a core for its clock disturbs it a little, so that of a large machine only some are asked.
CLOCKS_READ = 8
TEMPERATURE_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# A counter is off by up to a step at the edges of a window: by at most 7% in one of so many steps.
LEAST_STEPS = 15
# RAPL's counters move every millisecond, NVML's energy about every 0.1 s. NVML's utilisation and power are averages over up to
# a second before the reading, so that the first of a window of 15 such steps lies within it.
RAPL_STEP_S, GPU_STEP_S = 0.001, 0.1


class Host:
    """CPU utilisation of the machine and memory, clocks and temperature where the kernel shows them."""

    name = "host"
    least_window_s = 0.0  # ticks of all CPUs together: coarse in a short window, but of that window

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._process = psutil.Process()
        cpus = sorted(os.sched_getaffinity(0))
        step = max(1, len(cpus) // CLOCKS_READ)
        self._clocks = [file for cpu in cpus[::step][:CLOCKS_READ] if (file := Path(CPUFREQ.format(cpu))).is_file()]
        self._process.cpu_percent()
        # Ours and not psutil's, which is kept for each thread: the one that samples is not the one that begins.
        self._cpus = cpu_time.cpus()

    def lacking(self) -> list[str]:
        """What this kernel does not show."""
        readings = self.read()
        lacks = (
            ("cpu_clock_mhz", "CPU clocks (no cpufreq, as in many virtual machines)"),
            ("cpu_temperature_c", "CPU temperature (no sensor)"),
        )
        return [text for metric, text in lacks if metric not in readings]

    def read(self) -> dict[str, float]:
        before, self._cpus = self._cpus, cpu_time.cpus()
        readings = {
            # 100 is one core in full, as in top.
            "process_cpu_percent": self._process.cpu_percent(),
            "host_memory_bytes": self._psutil.virtual_memory().used,
            "process_memory_bytes": self._process.memory_info().rss,
        }
        if (utilisation := self._cpus.utilisation(before)) is not None:
            readings["cpu_utilisation_percent"] = utilisation
        clocks = []
        for file in self._clocks:
            with contextlib.suppress(OSError, ValueError):
                clocks.append(int(file.read_text()) / 1e3)
        if clocks:
            readings["cpu_clock_mhz"] = sum(clocks) / len(clocks)
        with contextlib.suppress(Exception):
            sensors = self._psutil.sensors_temperatures()
            readings["cpu_temperature_c"] = max(entry.current for chip in TEMPERATURE_CHIPS for entry in sensors.get(chip, []))
        return readings

    def joules(self) -> None:
        return None

    def close(self) -> None:
        """Nothing is held open."""


class Rapl:
    """Energy of the CPU packages from the kernel's powercap files, cores and on-die memory controllers included."""

    name = "RAPL"
    least_window_s = LEAST_STEPS * RAPL_STEP_S

    def __init__(self, root: Path | None = None):
        """Raises Absent where there is no counter or it may not be read."""
        root = POWERCAP if root is None else root
        domains = []
        for folder in sorted(root.glob("*-rapl:*")):
            # Packages alone: their subdomains are within them, and psys holds them all.
            with contextlib.suppress(OSError):
                if (folder / "name").read_text().strip().startswith("package"):
                    domains.append(folder)
        if not domains:
            raise Absent("CPU power (no RAPL counter in /sys/class/powercap)")
        try:
            self._files = [folder / "energy_uj" for folder in domains]
            self._ranges = [int((folder / "max_energy_range_uj").read_text()) for folder in domains]
            self._last = [int(file.read_text()) for file in self._files]
        except (OSError, ValueError):
            raise Absent("CPU power (the RAPL counter is readable by root only)") from None
        self._total = 0

    def read(self) -> dict[str, float]:
        return {}

    def joules(self) -> float:
        """Counts on over the counter's wrap, if it is read at least once a round (a minute at full load)."""
        for index, file in enumerate(self._files):
            value = int(file.read_text())
            used = value - self._last[index]
            self._total += used if used >= 0 else used + self._ranges[index]
            self._last[index] = value
        return self._total / 1e6

    def close(self) -> None:
        """Nothing is held open."""


class DeviceCounter:
    """The energy counter and clocks that the device offers itself (`Device.power_source`)."""

    least_window_s = LEAST_STEPS * GPU_STEP_S

    def __init__(self, device: Device):
        """Raises Absent where the device has none."""
        source = device.power_source()
        if source is None:
            raise Absent("GPU power (no counter can be read; for NVIDIA pip install nvidia-ml-py)")
        self._source, self.name = source, source.name

    def read(self) -> dict[str, float]:
        return {f"gpu_{domain}_clock_mhz": float(clock) for domain, clock in self._source.clocks_mhz().items()}

    def joules(self) -> float:
        return self._source.joules()

    def close(self) -> None:
        """The device keeps its counter open for later readings."""


class Nvml:
    """Utilisation, temperature, memory and power of one NVIDIA GPU."""

    name = nvml.Nvml.name
    least_window_s = LEAST_STEPS * GPU_STEP_S

    def __init__(self, device: Device, library: nvml.Library | None = None):
        """Raises Absent where package or driver is missing."""
        uuid = getattr(device, "uuid")  # noqa: B009 - of the devices that name this source
        try:
            self._reader = nvml.Nvml.open(uuid(), library)
        except nvml.Unavailable as reason:
            raise Absent(f"GPU utilisation ({reason})") from None

    def read(self) -> dict[str, float]:
        return self._reader.load()

    def joules(self) -> None:
        """The device's own counter has it."""
        return None

    def close(self) -> None:
        self._reader.close()


# The sources that devices name in `Device.telemetry_sources`.
OF_DEVICES: dict[str, Callable[[Device], Source]] = {
    "counter": DeviceCounter,
    "nvml": Nvml,
    "xpu-smi": lambda device: XpuSmi(),
}


def available(device: Device) -> tuple[list[Source], list[str]]:
    """Every source that this machine has for a run on the device, and what it lacks, a phrase each."""
    host = Host()
    present: list[Source] = [host]
    absent = host.lacking()
    makers: list[Callable[[], Source]] = [partial(OF_DEVICES[name], device) for name in device.telemetry_sources]
    for make in (Rapl, *makers):
        try:
            present.append(make())
        except Absent as lack:
            absent.append(str(lack))
    return present, absent
