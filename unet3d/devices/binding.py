"""Binds the calling process to cores and to the memory of their NUMA nodes, as numactl does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

# From Linux' <numaif.h>: allocate from the given nodes only.
MPOL_BIND = 2


def pin(cpus: Iterable[int]) -> None:
    """Run on these CPUs from now on; threads started later inherit it."""
    os.sched_setaffinity(0, set(cpus))


def bind_memory(nodes: Iterable[int]) -> str | None:
    """Take memory from these NUMA nodes only, also in threads started later; None, or why that is not possible."""
    try:
        library = ctypes.CDLL("libnuma.so.1", use_errno=True)
    except OSError:
        return "libnuma is not installed (apt-get install libnuma1)"
    if library.numa_available() < 0:
        return "the kernel has no NUMA support"
    width = 8 * ctypes.sizeof(ctypes.c_ulong)
    nodes = list(nodes)
    mask = (ctypes.c_ulong * (max(nodes) // width + 1))()
    for node in nodes:
        mask[node // width] |= 1 << node % width
    # The kernel reads one bit less than it is told.
    if library.set_mempolicy(MPOL_BIND, mask, ctypes.c_ulong(len(mask) * width + 1)) != 0:
        reason = os.strerror(ctypes.get_errno())
        return f"set_mempolicy: {reason} (a container needs --cap-add SYS_NICE)"
    return None
