"""Cores and NUMA nodes as Linux describes them in /sys, those that this process may use.

https://www.kernel.org/doc/html/latest/admin-guide/cputopology.html and .../numaperf.html
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system")
PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Core:
    """A physical core: the NUMA node it belongs to and its first hardware thread that may be used."""

    node: int
    cpu: int


def cores(allowed: Iterable[int] | None = None, system: Path = SYSTEM) -> list[Core]:
    """Physical cores by node, then by number. allowed: CPUs to take from, those of this process by default."""
    allowed = set(os.sched_getaffinity(0) if allowed is None else allowed)
    node_of = {
        cpu: int(folder.name.removeprefix("node"))
        for folder in (system / "node").glob("node[0-9]*")
        for cpu in numbers(_text(folder / "cpulist"))
    }
    first: dict[tuple[int, ...], int] = {}
    for cpu in sorted(allowed):
        siblings = numbers(_text(system / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list")) or [cpu]
        first.setdefault(tuple(siblings), cpu)
    return sorted((Core(node_of.get(cpu, 0), cpu) for cpu in first.values()), key=lambda core: (core.node, core.cpu))


def by_node(members: Sequence[Core]) -> dict[int, list[Core]]:
    """The cores of each node that has any."""
    nodes: dict[int, list[Core]] = {}
    for core in members:
        nodes.setdefault(core.node, []).append(core)
    return nodes


def split(members: Sequence[Core], groups: int) -> list[list[Core]]:
    """Groups of nearly equal size, none astride two nodes where their number allows it.

    Raises:
        ValueError: for more groups than cores.
    """
    if groups > len(members):
        raise ValueError(f"{groups} groups of {len(members)} cores")
    nodes = list(by_node(members).values())
    each = groups // len(nodes)
    if groups % len(nodes) == 0 and all(len(node) >= each for node in nodes):
        return [part for node in nodes for part in _parts(node, each)]
    return _parts(list(members), groups)


def _parts(members: list[Core], count: int) -> list[list[Core]]:
    ends = [round(len(members) * i / count) for i in range(count + 1)]
    return [members[start:end] for start, end in itertools.pairwise(ends)]


def free_memory(node: int, system: Path = SYSTEM) -> int:
    """Bytes of memory of a node that nobody uses; 0 where the kernel does not say."""
    match = re.search(r"MemFree:\s*(\d+) kB", _text(system / "node" / f"node{node}" / "meminfo"))
    return int(match[1]) * 1024 if match else 0


def node_of_pci(address: str, folder: Path = PCI) -> int | None:
    """The NUMA node that a PCI device, such as 0000:3b:00.0, is attached to; None where there is no such notion."""
    with contextlib.suppress(ValueError):
        node = int(_text(folder / address.lower() / "numa_node"))
        return node if node >= 0 else None
    return None


def numbers(text: str) -> list[int]:
    """[0, 1, 2, 8] from the kernel's 0-2,8."""
    values: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            values += range(int(first), int(last or first) + 1)
    return values


def ranges(values: Iterable[int]) -> str:
    """0-2,8 from 0, 1, 2, 8."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8")
    return ""
