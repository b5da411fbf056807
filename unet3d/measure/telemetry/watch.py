"""Samples the sources in a thread while the run is measured, and sums up what they said.

Power is joules over seconds where a counter is read: a gauge's reading may be an average over a second that began before the
window. What a window is too short for is left out.

The thread sleeps nearly always: the first and the last reading lie outside of the measured window, and what the others
cost is measured and stands in the results.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from unet3d.devices.base import Device
from unet3d.measure.telemetry import sources
from unet3d.measure.telemetry.source import Source
from unet3d.results import advice
from unet3d.results.console import Console
from unet3d.results.facts import Figure, RunWarning, Told
from unet3d.results.record import Section
from unet3d.results.timing import Sample

PERIOD_S = 1.0
# Averages over time: metric, key in results.yaml, unit.
FIGURES = (
    ("cpu_utilisation_percent", "cpu_utilisation", "percents"),
    ("gpu_utilisation_percent", "gpu_utilisation", "percents"),
    ("cpu_power_w", "cpu_power", "W"),
    ("gpu_power_w", "gpu_power", "W"),
)
# Seconds of the readings, and metrics of the machine; the others are of one process or one device.
OF_MACHINE = ("time_s", "cpu_", "host_")


@dataclass(frozen=True)
class Reading:
    """Of an energy counter, so many seconds after the window's begin."""

    at: float
    joules: float


class Sampler:
    """Reads every source now and then; `stop` gives what was read."""

    def __init__(self, opened: Sequence[Source], period: float = PERIOD_S):
        self._sources, self._period = list(opened), period
        self._times: list[float] = []
        self._rows: list[dict[str, float]] = []
        self._counted: dict[str, list[Reading]] = {}  # by counter
        self._least: dict[str, float] = {}  # seconds that a window must have, by metric and by counter
        self._cost = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="telemetry", daemon=True)

    def start(self) -> None:
        self._begin = perf_counter()
        # Utilisation and power are those since a reading before, so this one only sets the counters.
        self._power(0.0)
        for source in self._sources:
            source.read()
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
        whole = {name: counted for name, counted in self._counted.items() if (counted[0].at, counted[-1].at) == (0.0, window)}
        used = {name: counted[-1].joules - counted[0].joules for name, counted in whole.items()}
        short = {name: least for name, least in self._least.items() if least > window}
        averages = {metric for metric, _, _ in FIGURES}
        rows = [{name: value for name, value in row.items() if not (name in short and name in averages)} for row in self._rows]
        read = summarise(self._times, rows)
        used = {name: joules for name, joules in used.items() if name not in short}
        for name, joules in used.items():
            read["summary"][_power_of(name)]["mean"] = joules / window
        return {
            **read,
            "period_s": self._period,
            "window_s": window,
            "sampling_share": self._cost_inside / window if window else 0.0,
            "joules": used,
            "needed_s": max((least for name, least in short.items() if name in averages), default=None),
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
                readings = source.read()
                row.update(readings)
                self._least.update(dict.fromkeys(readings, source.least_window_s))
        now = perf_counter() - self._begin
        row.update(self._power(now))
        self._times.append(now)
        self._rows.append(row)
        self._cost += perf_counter() - start

    def _power(self, now: float) -> dict[str, float]:
        """Read the counters: W of each since its newest reading that is old enough to tell them, else since the first.

        So every reading but the first has a value, and some of these spans make up the whole window: its power is no larger
        than the largest of them and no smaller than the smallest.
        """
        power: dict[str, float] = {}
        for source in self._sources:
            with contextlib.suppress(Exception):
                if (joules := source.joules()) is None:
                    continue
                counted = self._counted.setdefault(source.name, [])
                if counted and now > counted[-1].at:
                    enough = (then for then in reversed(counted) if now - then.at >= source.least_window_s)
                    then = next(enough, counted[0])
                    power[_power_of(source.name)] = (joules - then.joules) / (now - then.at)
                    self._least.update(dict.fromkeys((source.name, _power_of(source.name)), source.least_window_s))
                counted.append(Reading(now, joules))
        return power


def _prefix(counter: str) -> str:
    return "cpu" if counter == sources.Rapl.name else "gpu"


def _power_of(counter: str) -> str:
    return f"{_prefix(counter)}_power_w"


def summarise(times: Sequence[float], rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """`samples`: their number; `series`: seconds since the start and each metric's values, None where a reading lacks
    it; `summary`: mean, min and max of each metric, where a reading counts by the seconds since the one before."""
    metrics = sorted({metric for row in rows for metric in row})
    seconds = [now - then for then, now in itertools.pairwise((0.0, *times))]
    summary = {}
    for metric in metrics:
        known = [(row[metric], weight) for row, weight in zip(rows, seconds, strict=True) if metric in row]
        values = [value for value, _ in known]
        mean = sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
        summary[metric] = {"mean": mean, "min": min(values), "max": max(values)}
    return {
        "samples": len(rows),
        "series": {"time_s": list(times), **{metric: [row.get(metric) for row in rows] for metric in metrics}},
        "summary": summary,
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


def section(watched: Watched, samples: Sequence[Sample], ranks: int = 1) -> tuple[Section | None, Told]:
    """`telemetry` of results.json, the figures of results.yaml and warnings, for a window with these samples.

    ranks: of how many this process is one. With several only the machine's readings are told, and no energy per volume.
    """
    if watched.read is None:
        return None, Told()
    read = dict(watched.read)
    joules, needed_s = read.pop("joules"), read.pop("needed_s")
    if ranks > 1:
        for part in ("series", "summary"):
            read[part] = {name: told for name, told in read[part].items() if name.startswith(OF_MACHINE)}
    telemetry: Section = {**read, "absent": list(watched.absent), "energy": None}
    figures: list[Figure] = []
    warnings: list[RunWarning] = []
    volumes = sum(sample.volumes for sample in samples)
    if needed_s and volumes and ranks == 1:
        warnings.append(advice.short_window(read["window_s"], needed_s, len(samples)))
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
    return telemetry, Told(figures, warnings)
