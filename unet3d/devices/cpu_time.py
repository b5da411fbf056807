"""Who has the CPUs: this benchmark, other work, or a hypervisor, by the kernel's own counters.

https://docs.kernel.org/filesystems/proc.html (1.7, 1.8)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from unet3d.devices import control_groups

PROC = Path("/proc")


@dataclass(frozen=True)
class Cpus:
    """Seconds that `count` CPUs have been busy and idle since the machine was started; stolen ones count as busy."""

    count: int
    busy: float
    idle: float
    stolen: float

    def utilisation(self, before: Cpus) -> float | None:
        """Percent of these CPUs' time since the reading before; None where the counters have not moved."""
        busy, idle = self.busy - before.busy, self.idle - before.idle
        return 100 * busy / (busy + idle) if busy + idle > 0 else None


@dataclass(frozen=True)
class Throttling:
    """How often, and for how many seconds in all, a CPU limit has stopped this process's control group."""

    times: int
    seconds: float


@dataclass(frozen=True)
class Reading:
    """The counters at one moment; `own` are the seconds of a process and all that it has started."""

    at: float
    cpus: Cpus
    own: float
    throttling: Throttling


@dataclass(frozen=True)
class Disturbance:
    """What others did to the CPUs of a process within a window. Shares are of these CPUs' whole time."""

    window_s: float
    cpus: int
    own_cpu_s: float
    others_cpu_s: float  # stolen seconds included
    others_share: float
    stolen_share: float
    throttled_times: int
    throttled_s: float


def read(root: int | None = None) -> Reading:
    """The counters of the CPUs that process `root` may run on (this one by default), and of its tree of processes."""
    root = os.getpid() if root is None else root
    return Reading(perf_counter(), cpus(os.sched_getaffinity(root)), _own_seconds(root), throttling())


def between(first: Reading, last: Reading) -> Disturbance | None:
    """What happened between two readings of the same process; None where the counters are not of the same CPUs."""
    if not first.cpus.count or first.cpus.count != last.cpus.count:
        return None
    window = last.at - first.at
    own, stolen = last.own - first.own, last.cpus.stolen - first.cpus.stolen
    others = max(0.0, last.cpus.busy - first.cpus.busy - own)
    # The counters move in ticks, and may have counted a little more than the clock.
    counted = last.cpus.busy + last.cpus.idle - first.cpus.busy - first.cpus.idle
    whole = max(window * last.cpus.count, counted)
    return Disturbance(
        window_s=window,
        cpus=last.cpus.count,
        own_cpu_s=own,
        others_cpu_s=others,
        others_share=others / whole,
        stolen_share=stolen / whole,
        throttled_times=last.throttling.times - first.throttling.times,
        throttled_s=last.throttling.seconds - first.throttling.seconds,
    )


def cpus(numbers: Iterable[int] | None = None, proc: Path = PROC) -> Cpus:
    """The counters of these CPUs, of all by default; of none where the kernel does not show every one of them.

    Some containers have a /proc/stat of their own, in which the CPUs that they may use are numbered from 0.
    """
    wanted = None if numbers is None else {f"cpu{number}" for number in numbers}
    count, busy, idle, stolen = 0, 0.0, 0.0, 0.0
    tick = os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        for line in (proc / "stat").read_text(encoding="ascii").splitlines():
            name, *words = line.split()
            if not name.startswith("cpu") or name == "cpu" or (wanted is not None and name not in wanted):
                continue
            # Guests' time, the last two, is within user and nice. Kernels of long ago have fewer columns.
            ticks = [int(word) for word in words[:8]] + [0] * 8
            user, nice, system, waiting, for_io, irq, softirq, steal = ticks[:8]
            count += 1
            busy += (user + nice + system + irq + softirq + steal) / tick
            idle += (waiting + for_io) / tick
            stolen += steal / tick
    if wanted is not None and count < len(wanted):
        return Cpus(0, 0.0, 0.0, 0.0)
    return Cpus(count, busy, idle, stolen)


def throttling(proc: Path = PROC, root: Path = control_groups.ROOT) -> Throttling:
    """By the control group whose limit has stopped this process most, its own or one above; zero where there is none."""
    found = [Throttling(0, 0.0)]
    for folder in control_groups.folders("cpu", proc, root):
        told = control_groups.entries(folder / "cpu.stat")
        seconds = told.get("throttled_usec", 0) / 1e6 + told.get("throttled_time", 0) / 1e9
        found.append(Throttling(told.get("nr_throttled", 0), seconds))
    return max(found, key=lambda item: item.times)


def _own_seconds(root: int) -> float:
    """CPU seconds of a process, its children and theirs, those that have ended and were waited for included."""
    import psutil

    seconds = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(root)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                seconds += sum(member.cpu_times()[:4])  # user, system, and both of children waited for
    return seconds
