"""Samples of a monotonic clock and what is computed from them.

Latency is the time of one inference call, from handing over the staged volumes to complete logits (input transfer,
network, synchronisation), whatever the batch size: what MLPerf's SingleStream scenario times, whose reported figure is
the 90th percentile. Throughput is volumes per second of inference: with one call in flight the volumes over the sum
of latencies, with several the volumes over the steady window, in which all of them are in flight
(`unet3d.results.window`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unet3d.results import window
from unet3d.results.window import Calls

UNSTEADY = 0.05  # coefficient of variation above which times are called unstable


@dataclass
class Sample:
    """One inference call; seconds, `start` counted from the beginning of the measured window."""

    start: float
    latency: float
    stage: float = 0.0  # host work before: loading, conversion, pinning
    post: float = 0.0  # host work after: argmax and transfer of the labels
    volumes: int = 1
    stream: int = 0
    rank: int = 0
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistics:
    """Summary of samples: latencies in milliseconds, throughputs in volumes per second."""

    calls: int
    volumes: int
    mean: float
    median: float
    p50: float
    p90: float
    p99: float
    min: float
    max: float
    stdev: float
    cv: float
    throughput: float
    throughput_with_overhead: float
    latency_with_overhead: float


def percentiles(rows: np.ndarray, share: float) -> np.ndarray:
    """Percentile of each row [n, count] by the nearest-rank rule: a value that was really measured; `share` in percent.

    LoadGen takes one rank higher where share · count is whole, 10 calls' p90 being their longest one there.
    """
    index = max(1, int(np.ceil(share / 100 * rows.shape[1]))) - 1
    chosen: np.ndarray = np.partition(rows, index, axis=1)[:, index]
    return chosen


def percentile(values: Sequence[float] | np.ndarray, share: float) -> float:
    """Percentile of at least one value by the rule of `percentiles`."""
    return float(percentiles(np.asarray(values, float)[None], share)[0])


@dataclass(frozen=True)
class Columns:
    """Samples as columns [calls]; seconds."""

    start: np.ndarray
    latency: np.ndarray
    stage: np.ndarray
    post: np.ndarray
    volumes: np.ndarray
    stream: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Columns:
        """The columns of a list of samples."""
        return cls(*(np.array([getattr(sample, name) for sample in samples]) for name in cls.__dataclass_fields__))

    def by_rank(self, overhead: bool) -> list[Calls]:
        """The calls of each rank; overhead: from staging to the labels on the host, not the inference alone."""
        begin, end = self.start, self.start + self.latency
        if overhead:
            begin, end = begin - self.stage, end + self.post
        places = [np.flatnonzero(self.rank == rank) for rank in np.unique(self.rank)]
        return [Calls(begin[own], end[own], self.volumes[own], self.stream[own]) for own in places]


def steady(samples: Sequence[Sample], streams: int) -> bool:
    """Whether throughput is of the time in which all streams were in flight; see `unet3d.results.window`."""
    return streams == 1 or all(calls.steady(streams) for calls in Columns.of(samples).by_rank(overhead=False))


def summarise(samples: Sequence[Sample], streams: int = 1) -> Statistics:
    """Statistics of at least one sample, of one rank or of several. See `summarise_columns`."""
    return summarise_columns(Columns.of(samples), streams)


def summarise_columns(calls: Columns, streams: int = 1) -> Statistics:
    """Statistics of at least one call, of one rank or of several; throughputs by the rule of `unet3d.results.window`."""
    latency, total = calls.latency, calls.stage + calls.latency + calls.post
    throughput, with_overhead = window.rates(calls.by_rank(overhead=False), calls.by_rank(overhead=True), streams)
    mean = float(latency.mean())
    deviation = float(latency.std(ddof=1)) if len(latency) > 1 else 0.0
    return Statistics(
        calls=len(latency),
        volumes=int(calls.volumes.sum()),
        mean=1e3 * mean,
        median=1e3 * float(np.median(latency)),
        p50=1e3 * percentile(latency, 50),
        p90=1e3 * percentile(latency, 90),
        p99=1e3 * percentile(latency, 99),
        min=1e3 * float(latency.min()),
        max=1e3 * float(latency.max()),
        stdev=1e3 * deviation,
        cv=deviation / mean,
        throughput=throughput,
        throughput_with_overhead=with_overhead,
        latency_with_overhead=1e3 * float(total.mean()),
    )


@dataclass
class WarmUp:
    """When to stop warming up: after a fixed number of calls, or when two calls in a row agree."""

    calls: int | None = None
    least: int = 2
    most: int = 8
    tolerance: float = 0.03
    latencies: list[float] = field(default_factory=list)

    @property
    def rule(self) -> str:
        if self.calls is not None:
            return f"{self.calls} calls as set"
        return (
            f"until two calls in a row agree within {self.tolerance:.0%}, "
            f"{self.least} to {self.most} calls: {len(self.latencies)} were made"
        )

    @property
    def done(self) -> bool:
        made = len(self.latencies)
        if self.calls is not None:
            return made >= self.calls
        if made < self.least:
            return False
        last, before = self.latencies[-1], self.latencies[-2]
        return made >= self.most or abs(last - before) <= self.tolerance * before

    @property
    def settled(self) -> bool:
        """False where the calls never agreed; a fixed number of calls is taken as the user's word."""
        if self.calls is not None or len(self.latencies) < 2:
            return True
        last, before = self.latencies[-1], self.latencies[-2]
        return abs(last - before) <= self.tolerance * before
