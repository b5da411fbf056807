"""Events as PyTorch's profiler tells them of a GPU, where there is none."""

import itertools

from unet3d.engines.pytorch import kernels, profiler
from unet3d.engines.pytorch.kernels import MARK, Event


class MadeUpGpu:
    """Stands in for PyTorch's profiler on a GPU: two kernels for each operator that was marked, of `ms` each; a call without
    marks has the same ones, with no operators."""

    def __init__(self, ms, changes=lambda names: names, sees=True):
        self.ms, self.changes, self.sees, self.names = ms, changes, sees, []

    def stands_in(self, monkeypatch):
        """PyTorch's profiler records on the host alone, and this tells what it saw."""
        monkeypatch.setattr(profiler, "recording", lambda kind, record=profiler.recording: record())
        monkeypatch.setattr(kernels, "events", self)

    def __call__(self, profile):
        if not self.sees:
            return []
        seen, tell = [], itertools.count(1)
        for event in profile.kineto_results.events():
            if event.name().startswith(MARK):
                host = Event(event.name(), False, event.start_ns(), event.duration_ns(), next(tell), 0)
                inner = Event("aten::inner", False, event.start_ns() + 1, 1, next(tell), 0)
                names = [f"kernel_{len(self.names)}", "fold"]
                self.names += names
                seen += [host, inner, *self._kernels(names, event.start_ns(), inner.number)]
        return seen or self._kernels(["Memcpy HtoD", *self.changes(self.names)], 0, 0)

    def _kernels(self, names, start, operator):
        return [Event(name, True, start + i, round(1e6 * self.ms), 0, operator) for i, name in enumerate(names)]
