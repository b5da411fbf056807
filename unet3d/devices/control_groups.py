"""What limits this process's control groups set, of version 1 and 2: its own group's, and those of the groups above it.

https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/
In a container that sees its own group as the root, or another one's path, the root's files are its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

PROC, ROOT = Path("/proc"), Path("/sys/fs/cgroup")
# Version 1 writes a number near 2^63 where there is no limit.
NO_LIMIT = 2**62
# Files of a limit and of what is used, and the entry of memory.stat that has the file cache which can be given up; in version 1
# the entries without "total_" leave out the groups below, whose memory counts.
MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def folders(controller: str, proc: Path = PROC, root: Path = ROOT) -> Iterator[Path]:
    """The groups that a controller (cpu, memory) holds this process in, its own first."""
    with contextlib.suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            base = root / controllers if controllers else root
            own = base / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(base))


def entries(file: Path) -> dict[str, int]:
    """The named numbers of a file such as cpu.stat; empty where there is none."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="ascii").splitlines():
            name, _, text = line.partition(" ")
            if text.isdecimal():
                found[name] = int(text)
    return found


def cpu_quota(proc: Path = PROC, root: Path = ROOT) -> float | None:
    """CPUs' worth of time that this process may use, None where nothing limits it."""
    quotas = []
    for folder in folders("cpu", proc, root):
        words = _words(folder / "cpu.max") or [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_left(proc: Path = PROC, root: Path = ROOT) -> int | None:
    """Bytes that this process may still take within its limits, None where nothing limits it.

    Pages of files that nobody has used of late count as free: the kernel gives them up before it says that memory is out.
    """
    left = []
    for folder in folders("memory", proc, root):
        for limit, used, cached in MEMORY:
            words = [*_words(folder / limit), *_words(folder / used)]
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[0]) < NO_LIMIT:
                most, taken = map(int, words)
                reclaimable = min(taken, entries(folder / "memory.stat").get(cached, 0))
                left.append(max(0, most - taken + reclaimable))
    return min(left, default=None)


def oom_kills(proc: Path = PROC, root: Path = ROOT) -> int:
    """How often the kernel has killed a process of these groups for lack of memory; 0 where that cannot be read."""
    return max(
        (
            entries(folder / name).get("oom_kill", 0)
            for folder in folders("memory", proc, root)
            for name in ("memory.events", "memory.oom_control")
        ),
        default=0,
    )


def _words(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="ascii").split()
    return []
