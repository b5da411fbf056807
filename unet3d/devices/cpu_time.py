"""Who has the CPUs: this benchmark, other work, or a hypervisor, by the kernel's own counters.

https://docs.kernel.org/filesystems/proc.html (1.7, 1.8) and https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.stat)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cpus:
    """Seconds that some CPUs have been busy and idle since the machine was started; stolen ones count as busy."""

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


def between(first: Reading, last: Reading) -> Disturbance:
    """What happened between two readings of the same process."""
    window = last.at - first.at
    own, stolen = last.own - first.own, last.cpus.stolen - first.cpus.stolen
    others = max(0.0, last.cpus.busy - first.cpus.busy - own)
    whole = window * last.cpus.count
    return Disturbance(
        window_s=window,
        cpus=last.cpus.count,
        own_cpu_s=own,
        others_cpu_s=others,
        others_share=others / whole if whole else 0.0,
        stolen_share=stolen / whole if whole else 0.0,
        throttled_times=last.throttling.times - first.throttling.times,
        throttled_s=last.throttling.seconds - first.throttling.seconds,
    )


def cpus(numbers: Iterable[int] | None = None, proc: Path = PROC) -> Cpus:
    """The counters of these CPUs, of all by default; nothing where the kernel shows none."""
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
    return Cpus(count, busy, idle, stolen)


def throttling(proc: Path = PROC, root: Path = CGROUPS) -> Throttling:
    """By the control group whose limit has stopped this process most, its own or one above; zero where there is none."""
    worst = Throttling(0, 0.0)
    for folder in _control_groups(proc, root):
        with contextlib.suppress(OSError, ValueError):
            words = dict(line.split() for line in (folder / "cpu.stat").read_text(encoding="ascii").splitlines())
            seconds = int(words.get("throttled_usec", 0)) / 1e6 + int(words.get("throttled_time", 0)) / 1e9
            found = Throttling(int(words.get("nr_throttled", 0)), seconds)
            worst = max(worst, found, key=lambda item: item.times)
    return worst


def _control_groups(proc: Path, root: Path) -> Iterable[Path]:
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = root / controllers if controllers else root
            own = base / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(base))


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
