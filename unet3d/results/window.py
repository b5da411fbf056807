"""The time over which throughput is counted, and how it is cut into slices for the bootstrap.

One call in flight: every second in which a call is in inference counts. Several calls in flight (`streams`): at both ends of
a run fewer calls are in flight than were asked for, and how fast the last one runs alone says nothing of the machine
under load. So the *steady window* counts: from the moment at which every stream has finished its first call to the
moment at which the first stream has finished its last one. Calls that reach over an end count with the share of their
time that lies inside. In the window, seconds in which no call is in inference, but the host stages or takes
labels, do not count; with overhead they do.

This holds for streams that share out a machine's cores and for streams that queue up for one device. Without the first
calls' end a queue would be counted too fast, since its first calls do not wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calls:
    """The calls of one rank [n]: when each begins and ends, in seconds, its volumes and its stream.

    From its start to complete logits, or, with overhead, from staging to the labels on the host: of that the part which no
    other call of its stream hides.
    """

    begin: np.ndarray
    end: np.ndarray
    volumes: np.ndarray
    stream: np.ndarray

    def steady(self, streams: int) -> tuple[float, float] | None:
        """Begin and end of the steady window; None where the calls are too few to have one."""
        numbers, of_stream = np.unique(self.stream, return_inverse=True)
        if len(numbers) < streams:
            return None
        first, last = np.full(len(numbers), np.inf), np.full(len(numbers), -np.inf)
        np.minimum.at(first, of_stream, self.end)
        np.maximum.at(last, of_stream, self.end)
        start, stop = float(first.max()), float(last.min())
        return (start, stop) if stop > start else None


def rank_parts(calls: Calls, streams: int, overhead: bool, slices: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(volumes, seconds) of each part of a rank's measured time; the rank's throughput is the ratio of their sums.

    calls: with overhead those that hold the host's work. With one call in flight a part is a call. With several the window
    is cut into `slices` of equal length, each with what all streams did in it, so that concurrent calls stay together.
    """
    if streams == 1:
        return np.asarray(calls.volumes, float), calls.end - calls.begin
    window = calls.steady(streams) or (float(calls.begin.min()), float(calls.end.max()))
    edges = np.linspace(*window, slices + 1)
    lasting = np.maximum(calls.end - calls.begin, 1e-9)
    volumes = np.diff(_integral(calls, calls.volumes / lasting, edges))
    seconds = np.diff(edges) if overhead else np.diff(_integral(calls, None, edges))
    return volumes, seconds


def throughput(ranks: Sequence[tuple[float, np.ndarray, np.ndarray]]) -> np.ndarray:
    """Volumes per second of all ranks together.

    ranks: of each the volumes of all its calls, then the sums (volumes, seconds) of its parts, of any one shape that the
    result has too. Ranks start together, so all volumes are done when the slowest rank is.
    """
    slowest = np.max([own * seconds / done for own, done, seconds in ranks], axis=0)
    together: np.ndarray = sum(own for own, _, _ in ranks) / slowest
    return together


def rates(inference: Sequence[Calls], with_host: Sequence[Calls], streams: int) -> tuple[float, float]:
    """Throughput and throughput with overhead, in volumes per second, of the same calls by rank.

    With overhead and one call in flight in each of several ranks it is over the time on the clock, from the first rank's
    start to the last one's end. With one call in flight it is the larger one where transfers are hidden behind the network.
    """
    inferring = _rate(inference, streams, overhead=False)
    if streams == 1 and len(with_host) > 1:
        clock = max(calls.end.max() for calls in with_host) - min(calls.begin.min() for calls in with_host)
        return inferring, float(sum(calls.volumes.sum() for calls in with_host) / clock)
    overall = _rate(with_host, streams, overhead=True)
    # The two windows of streams differ by less than a call; the host's work can only add time.
    return inferring, overall if streams == 1 else min(overall, inferring)


def _rate(ranks: Sequence[Calls], streams: int, overhead: bool) -> float:
    parts = [(float(calls.volumes.sum()), *rank_parts(calls, streams, overhead)) for calls in ranks]
    return float(throughput([(own, volumes.sum(), seconds.sum()) for own, volumes, seconds in parts]))


def _integral(calls: Calls, rates: np.ndarray | None, at: np.ndarray) -> np.ndarray:
    """Up to each time `at` the sum of the calls' rates over time; without rates the seconds with any call under way."""
    n = len(calls.begin)
    steps = np.concatenate([rates, -rates]) if rates is not None else np.concatenate([np.ones(n), -np.ones(n)])
    times = np.concatenate([calls.begin, calls.end])
    order = np.argsort(times, kind="stable")
    times, heights = times[order], np.cumsum(steps[order])
    if rates is None:
        heights = (heights > 0).astype(float)
    sums = np.concatenate([[0.0], np.cumsum(heights[:-1] * np.diff(times))])
    reached: np.ndarray = np.interp(at, times, sums)
    return reached
