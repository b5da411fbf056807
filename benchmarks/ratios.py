"""Ratios of paired runs with an interval: how many times faster one contestant is than another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Geometric mean over rounds of the second's time over the first's, with a 95% bootstrap interval."""

    value: float
    low: float
    high: float
    rounds: int


def ratio(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], resamples: int = 10_000, seed: int = 0) -> Ratio:
    """Ratio of seconds a volume, `second` over `first`; each a list of rounds, each round its calls' seconds.

    The interval is the percentile bootstrap in two stages (Davison and Hinkley, Bootstrap Methods and their Application,
    1997, section 3.8): rounds are drawn with replacement, both contestants of a round together since they are a pair,
    then calls within each run. With one round only the calls vary, so the interval says nothing of rounds.
    """
    if len(first) != len(second) or not first:
        raise ValueError("both contestants need the same number of rounds, at least one")
    generator = np.random.default_rng(seed)
    rounds = len(first)
    draws = np.stack(
        [
            np.log(_means(b, (rounds, resamples), generator) / _means(a, (rounds, resamples), generator))
            for a, b in zip(first, second, strict=True)
        ]
    )
    chosen = generator.integers(rounds, size=(rounds, resamples))
    places, samples = np.ogrid[:rounds, :resamples]
    values = draws[chosen, places, samples].mean(axis=0)
    low, high = np.exp(np.percentile(values, (2.5, 97.5)))
    observed = np.mean([np.log(np.mean(b) / np.mean(a)) for a, b in zip(first, second, strict=True)])
    return Ratio(float(np.exp(observed)), float(low), float(high), rounds)


def _means(calls: Sequence[float], shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Means of calls drawn with replacement, an array of this shape."""
    values = np.asarray(calls, dtype=float)
    return values[generator.integers(len(values), size=(*shape, len(values)))].mean(axis=-1)
