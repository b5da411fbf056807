"""Samples the sources in a thread while the run is measured, and sums up what they said.

The thread sleeps nearly always: the first and the last reading lie outside of the measured window, and what the others
cost is measured and stands in the results.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from unet3d.devices.base import Device
from unet3d.measure.telemetry import sources
from unet3d.measure.telemetry.source import Source
from unet3d.results.console import Console
from unet3d.results.facts import Figure
from unet3d.results.record import Section

PERIOD_S = 1.0
FIGURES = (
    ("cpu_utilisation_percent", "cpu_utilisation", "percents"),
    ("gpu_utilisation_percent", "gpu_utilisation", "percents"),
    ("cpu_power_w", "cpu_power", "W"),
    ("gpu_power_w", "gpu_power", "W"),
)


class Sampler:
    """Reads every source now and then; `stop` gives what was read."""

    def __init__(self, opened: Sequence[Source], period: float = PERIOD_S):
        self._sources, self._period = list(opened), period
        self._times: list[float] = []
        self._rows: list[dict[str, float]] = []
        self._cost = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)

    def start(self) -> None:
        self._begin = perf_counter()
        # Utilisation is that since the reading before, so this one only sets the counters.
        self._first = self._joules()
        for source in self._sources:
            source.read()
        self._before = (perf_counter(), dict(self._first))
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Ends the thread, reads once more and sums up: see `summarise`."""
        self._stop.set()
        self._thread.join()
        self._cost_inside = self._cost
        self._sample()
        for source in self._sources:
            source.close()
        window = self._times[-1]
        used = {name: self._before[1][name] - value for name, value in self._first.items() if name in self._before[1]}
        return {
            **summarise(self._times, self._rows),
            "period_s": self._period,
            "window_s": window,
            "sampling_share": self._cost_inside / window if window else 0.0,
            "joules": used,
        }

    def _loop(self) -> None:
        while not self._stop.wait(self._period):
            self._sample()

    def _sample(self) -> None:
        start = perf_counter()
        row: dict[str, float] = {}
        for source in self._sources:
            # A sensor that fails once is no reason to lose the run.
            with contextlib.suppress(Exception):
                row.update(source.read())
        now, energy = perf_counter(), self._joules()
        then, before = self._before
        for name, joules in energy.items():
            if name in before and now > then:
                row.setdefault(f"{_prefix(name)}_power_w", (joules - before[name]) / (now - then))
        self._before = (now, {**before, **energy})
        self._times.append(now - self._begin)
        self._rows.append(row)
        self._cost += perf_counter() - start

    def _joules(self) -> dict[str, float]:
        opened = {}
        for source in self._sources:
            with contextlib.suppress(Exception):
                if (joules := source.joules()) is not None:
                    opened[source.name] = joules
        return opened


def _prefix(counter: str) -> str:
    return "cpu" if counter == sources.Rapl.name else "gpu"


def summarise(times: Sequence[float], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """`samples`: their number; `series`: seconds since the start and each metric's values, None where a reading lacks
    it; `summary`: mean, min and max of each metric."""
    metrics = sorted({metric for row in rows for metric in row})
    series = {metric: [row.get(metric) for row in rows] for metric in metrics}
    known = {metric: [value for value in values if value is not None] for metric, values in series.items()}
    return {
        "samples": len(rows),
        "series": {"time_s": list(times), **series},
        "summary": {
            metric: {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}
            for metric, values in known.items()
        },
    }


@dataclass
class Watched:
    """What was read while something ran; empty until it has ended, and where nothing was to be watched."""

    read: dict[str, Any] | None = None
    absent: Sequence[str] = ()


@contextlib.contextmanager
def watching(device: Device, out: Console, enabled: bool = True, period: float = PERIOD_S) -> Iterator[Watched]:
    """Sample while the body runs. What this machine lacks is said once, in a line.

    A body that raises still leaves what was read.
    """
    watched = Watched()
    if not enabled:
        yield watched
        return
    available, watched.absent = sources.available(device)
    if watched.absent:
        out.info(f"telemetry without: {'; '.join(watched.absent)}")
    sampler = Sampler(available, period)
    sampler.start()
    try:
        yield watched
    finally:
        watched.read = sampler.stop()


def section(watched: Watched, volumes: int, ranks: int = 1) -> tuple[Section | None, list[Figure]]:
    """`telemetry` of results.json and the figures of results.yaml, for a window in which so many volumes were measured."""
    if watched.read is None:
        return None, []
    read = dict(watched.read)
    joules = read.pop("joules")
    telemetry: Section = {**read, "absent": list(watched.absent), "energy": None}
    figures: list[Figure] = []
    # A counter of the machine, or of one device, is not that of the volumes of all ranks.
    if joules and volumes and ranks == 1:
        telemetry["energy"] = {
            "joules": joules,
            "volumes": volumes,
            "joules_per_volume": {name: value / volumes for name, value in joules.items()},
            "covers": "the whole measured window with the host's work around the calls, "
            "and whatever else the counted hardware did meanwhile",
        }
        figures += [(f"energy_per_volume_{_prefix(name)}", value / volumes, "J") for name, value in joules.items()]
    figures += [(key, read["summary"][metric]["mean"], unit) for metric, key, unit in FIGURES if metric in read["summary"]]
    return telemetry, figures
