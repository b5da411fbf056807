"""Keep each stream's calls on cores of its own.

Left to itself the system moves single-threaded streams about and now and then puts two on one core. OpenMP's workers
inherit the cores of the thread that starts them, so that pinning the calling thread is enough.
"""

from __future__ import annotations

import itertools
import os
import threading

from unet3d.devices import topology


class Pinning:
    """Made by the thread that measures, which itself stays free: its other work may use every core."""

    def __init__(self, streams: int):
        self._streams = streams
        self._cores = sorted(core.cpu for core in topology.cores())
        self._next = itertools.count()
        self._done = threading.local()
        self._done.value = True

    def pin(self) -> None:
        """Pin the calling thread at its first call, each thread to the next share of the cores."""
        if getattr(self._done, "value", False):
            return
        self._done.value = True
        if self._streams < 2:
            return
        each = max(1, len(self._cores) // self._streams)
        begin = next(self._next) % self._streams * each
        os.sched_setaffinity(0, {self._cores[index % len(self._cores)] for index in range(begin, begin + each)})
