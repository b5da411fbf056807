"""How sure a ratio of two measurements is, from their raw samples.

Calls of a run are not independent: clocks, temperature and other work drift, so neighbours resemble each other. The
bootstrap therefore draws blocks of neighbouring calls (circular block bootstrap, Politis and Romano 1992). Where a side
has several runs, whole runs are drawn first (Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013),
since two runs of the same thing differ by more than their own calls tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 4000
CONFIDENCE = 0.99
FEWEST = 5  # samples below which nothing is said about noise


@dataclass(frozen=True)
class Ratio:
    """A ratio and its confidence interval; `low` and `high` are None where there are too few samples."""

    value: float
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low is not None and not self.low <= 1 <= self.high


def block_length(samples: np.ndarray) -> int:
    """Samples in a block: as many as neighbours resemble each other, from their correlation at lag 1.

    The rule is that of a first-order autoregressive series, (2 r / (1 - r^2))^(2/3) n^(1/3) (Carlstein 1986), between
    n^(1/3) and n / 3: short series hide their correlation.
    """
    n = len(samples)
    if n < 4:
        return 1
    least, most = round(n ** (1 / 3)), max(1, n // 3)
    centred = samples - samples.mean()
    spread = float(centred @ centred)
    r = float(centred[:-1] @ centred[1:]) / spread if spread > 0 else 0.0
    r = min(max(r + (1 + 3 * r) / n, 0.0), 0.95)  # the estimate is too low by as much (Kendall 1954)
    return int(min(max(round((2 * r / (1 - r * r)) ** (2 / 3) * n ** (1 / 3)), least), most))


def draw(samples: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws [draws, n] of n samples in blocks of neighbours, the last sample's neighbour being the first."""
    n, length = len(samples), block_length(samples)
    starts = rng.integers(0, n, (draws, -(-n // length)))
    indices = (starts[:, :, None] + np.arange(length)) % n
    return samples[indices.reshape(draws, -1)[:, :n]]


def ratio(value: float, base: np.ndarray, other: np.ndarray, independent: float) -> Ratio:
    """The ratio `value` with the interval that the draws of both sides' figures span.

    independent: how many independent samples the smaller side has, its blocks. Draws of few samples spread too little,
    by sqrt((n - 1) / n), and the normal distribution's tails are thinner than Student's; the interval is widened by
    both (Hesterberg, "What teachers should know about the bootstrap", 2015).
    """
    from scipy import stats

    n, share = max(independent, 2.0), (1 + CONFIDENCE) / 2
    inflate = float(stats.t.ppf(share, n - 1) / stats.norm.ppf(share) * np.sqrt(n / (n - 1)))
    logs = np.log(other) - np.log(base)
    low, high = np.quantile(logs, [1 - share, share]) - np.median(logs)
    return Ratio(value, float(value * np.exp(inflate * low)), float(value * np.exp(inflate * high)))


def difference(pairs: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of paired differences with the interval of the ordinary bootstrap over the pairs."""
    means = pairs[rng.integers(0, len(pairs), (DRAWS, len(pairs)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(pairs.mean()), float(low), float(high)
