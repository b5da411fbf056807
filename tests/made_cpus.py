"""Counters of CPUs that others use, put in for those of this machine."""

import os

from unet3d.devices import cpu_time
from unet3d.devices.cpu_time import Cpus, Reading, Throttling


class BusyCpus:
    """Counters of a machine whose others take `share` of its CPUs, as the run's own process reads them.

    It has four times the CPUs of the true one: a quarter of them is all that the process's own seconds can fill.
    """

    def __init__(self, share):
        self._share, self._read, self._count = share, cpu_time.read, 4 * os.cpu_count()

    def read(self, root=None):
        true = self._read(root)
        whole = self._count * true.at
        busy = true.own + self._share * whole
        return Reading(true.at, Cpus(self._count, busy, whole - busy, 0), true.own, Throttling(0, 0))
