"""Samples of a monotonic clock and what is computed from them.

Latency is the time of one inference call, from handing over the staged volumes to complete logits (input transfer,
network, synchronisation), whatever the batch size: what MLPerf's SingleStream scenario times, whose reported figure is
the 90th percentile. Throughput is volumes per second of inference: with one call in flight the volumes over the sum
of latencies, with several the volumes over the steady window, in which all of them are in flight
(`unet3d.results.window`). With overhead it is volumes over the time on the clock, so that what runs beside another call's
network is not counted twice.
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
    post: float = 0.0  # work after: argmax and transfer of the labels
    volumes: int = 1
    stream: int = 0
    rank: int = 0
    cases: tuple[str, ...] = ()
    hidden: float = 0.0  # of stage, latency and post together, what ran while the network worked on other calls' volumes


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


def percentile(values: Sequence[float], share: float) -> float:
    """Percentile of at least one value by the rule of `percentiles`."""
    return float(percentiles(np.asarray(values, float)[None], share)[0])


def calls_by_rank(samples: Sequence[Sample], overhead: bool) -> list[Calls]:
    """The calls of each rank; overhead: from staging to the labels on the host, without what other calls hide, not the
    inference alone."""
    ranks: dict[int, list[Sample]] = {}
    for sample in samples:
        ranks.setdefault(sample.rank, []).append(sample)
    return [
        Calls(
            np.array([sample.start - (sample.stage - sample.hidden if overhead else 0.0) for sample in own]),
            np.array([sample.start + sample.latency + (sample.post if overhead else 0.0) for sample in own]),
            np.array([sample.volumes for sample in own]),
            np.array([sample.stream for sample in own]),
        )
        for own in ranks.values()
    ]


def steady(samples: Sequence[Sample], streams: int) -> bool:
    """Whether throughput is of the time in which all streams were in flight; see `unet3d.results.window`."""
    return streams == 1 or all(calls.steady(streams) for calls in calls_by_rank(samples, overhead=False))


def summarise(samples: Sequence[Sample], streams: int = 1) -> Statistics:
    """Statistics of at least one sample, of one rank or of several; throughputs by the rule of `unet3d.results.window`."""
    latencies = [sample.latency for sample in samples]
    volumes = sum(sample.volumes for sample in samples)
    total = [sample.stage + sample.latency + sample.post for sample in samples]
    throughput, with_overhead = window.rates(calls_by_rank(samples, False), calls_by_rank(samples, True), streams)
    mean = float(np.mean(latencies))
    deviation = float(np.std(latencies, ddof=1)) if len(latencies) > 1 else 0.0
    return Statistics(
        calls=len(samples),
        volumes=volumes,
        mean=1e3 * mean,
        median=1e3 * float(np.median(latencies)),
        p50=1e3 * percentile(latencies, 50),
        p90=1e3 * percentile(latencies, 90),
        p99=1e3 * percentile(latencies, 99),
        min=1e3 * min(latencies),
        max=1e3 * max(latencies),
        stdev=1e3 * deviation,
        cv=deviation / mean,
        throughput=throughput,
        throughput_with_overhead=with_overhead,
        latency_with_overhead=1e3 * float(np.mean(total)),
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
