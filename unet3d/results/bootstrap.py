"""How sure a ratio of two measurements is, from their raw samples: the one bootstrap, at one level of confidence.

Two designs are met. `ratio_of_sides` takes two sides that were measured independently of each other, as `compare` gets
them. `ratio_of_rounds` takes rounds in which both were run one after the other, as `benchmarks/paired.py` makes them: a
round is a pair and is drawn as one.

Calls of a run are not independent: clocks, temperature and other work drift, so neighbours resemble each other. For
sides the bootstrap therefore draws blocks of neighbouring calls (circular block bootstrap, Politis and Romano 1992).
Where a side has several runs, whole runs are drawn first (Kalibera and Jones, "Rigorous benchmarking in reasonable
time", 2013), since two runs of the same thing differ by more than their own calls tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
CONFIDENCE = 0.99
FEWEST = 5  # samples below which nothing is said about noise
MOST_UNITS = 4096  # of a series, see `Units`
CHUNK = 2**19  # counts that are held at a time


@dataclass(frozen=True)
class Ratio:
    """A ratio and its confidence interval; `low` and `high` are None where there are too few samples."""

    value: float
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest of the middle CONFIDENCE of the draws [n]."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def block_length(samples: np.ndarray, least: int = 1) -> int:
    """Samples in a block: as many as neighbours resemble each other, from their correlation at lag 1; not below `least`.

    The rule is that of a first-order autoregressive series, (2 r / (1 - r^2))^(2/3) n^(1/3) (Carlstein 1986), between
    n^(1/3) and n / 3: short series hide their correlation.
    """
    n = len(samples)
    if n < 4:
        return 1
    shortest, longest = round(n ** (1 / 3)), max(1, n // 3)
    centred = samples - samples.mean()
    spread = float(centred @ centred)
    r = float(centred[:-1] @ centred[1:]) / spread if spread > 0 else 0.0
    r = min(max(r + (1 + 3 * r) / n, 0.0), 0.95)  # the estimate is too low by as much (Kendall 1954)
    ruled = max(round((2 * r / (1 - r * r)) ** (2 / 3) * n ** (1 / 3)), shortest)
    return int(max(min(ruled, longest), min(least, n)))


@dataclass(frozen=True)
class Units:
    """How a series of `samples` is drawn: `count` units of `size` neighbours (the last may be shorter), `length` to a block.

    A short series has one sample a unit. A long one is drawn in at most MOST_UNITS, so that draws need as much memory for
    a million samples as for some thousands; blocks then begin at every unit instead of at every sample.
    """

    samples: int
    size: int
    count: int
    length: int

    @classmethod
    def of(cls, samples: int, length: int) -> Units:
        size = -(-samples // MOST_UNITS)
        return cls(samples, size, -(-samples // size), -(-length // size))

    @property
    def starts(self) -> np.ndarray:
        """Each unit's first sample [count]."""
        return np.arange(0, self.samples, self.size)


def draw(series: Sequence[Units], rng: np.random.Generator, draws: int = DRAWS) -> Iterator[list[np.ndarray]]:
    """How often each unit is drawn, a chunk of draws at a time: of each series an array [draws of the chunk, units].

    As many units are drawn as a series has, in blocks of neighbours; the last unit's neighbour is the first. Each
    series is drawn by itself.
    """
    chunk = max(1, CHUNK // sum(units.count for units in series))
    for done in range(0, draws, chunk):
        yield [_counts(units, rng, min(chunk, draws - done)) for units in series]


def _counts(units: Units, rng: np.random.Generator, draws: int) -> np.ndarray:
    n = units.count
    starts = rng.integers(0, n, (draws, -(-n // units.length)))
    ends = starts + units.length
    ends[:, -1] -= starts.shape[1] * units.length - n  # the last block is cut to what is left
    rows = np.arange(draws)[:, None]
    steps = np.zeros((draws, 2 * n + 1), np.int32)
    np.add.at(steps, (rows, starts), 1)
    np.add.at(steps, (rows, ends), -1)
    covered = steps.cumsum(axis=1, dtype=np.int32)
    counts: np.ndarray = covered[:, :n] + covered[:, n : 2 * n]
    return counts


def sums(units: Units, samples: np.ndarray) -> np.ndarray:
    """Sum of each unit's samples [count]."""
    added: np.ndarray = np.add.reduceat(np.asarray(samples, float), units.starts)
    return added


class DrawnPercentiles:
    """Percentiles of drawn samples, by the rule of `unet3d.results.timing.percentiles`, without the drawn samples.

    The sorted samples of a long series are cut into bins, of which each draw needs one: that with its percentile.
    """

    BINS = 64
    SHORT = 256  # samples that are quicker looked through as a whole

    def __init__(self, series: Sequence[Units], samples: Sequence[np.ndarray]):
        """samples: of each of the series, together one distribution."""
        values = np.concatenate(samples)
        unit = np.concatenate([np.arange(units.samples) // units.size for units in series])
        unit += np.repeat(np.cumsum([0, *(units.count for units in series[:-1])]), [units.samples for units in series])
        order = np.argsort(values, kind="stable")
        self._values, self._unit = values[order], unit[order].astype(np.int32)
        self._edges = np.linspace(0, len(values), min(self.BINS, len(values)) + 1).astype(int)
        count = sum(units.count for units in series)
        self._in_bin = np.stack(
            [
                np.bincount(self._unit[low:high], minlength=count)
                for low, high in zip(self._edges[:-1], self._edges[1:], strict=True)
            ],
            axis=1,
        ).astype(float)

    def of(self, counts: np.ndarray, share: float) -> np.ndarray:
        """The percentile of each draw; counts: of all units [draws, units], `share` in percent."""
        if len(self._values) <= self.SHORT:
            each = np.cumsum(counts[:, self._unit], axis=1)
            places = (each < np.maximum(1, np.ceil(share / 100 * each[:, -1:]))).sum(axis=1)
            chosen: np.ndarray = self._values[places]
            return chosen
        reached = np.cumsum(counts @ self._in_bin, axis=1)
        ranks = np.maximum(1, np.ceil(share / 100 * reached[:, -1]))
        bins = (reached < ranks[:, None]).sum(axis=1)
        before = np.where(bins > 0, reached[np.arange(len(bins)), bins - 1], 0.0)
        found = np.empty(len(bins))
        for row, place in enumerate(bins):
            low, high = self._edges[place], self._edges[place + 1]
            within = np.cumsum(counts[row, self._unit[low:high]])
            found[row] = self._values[low + np.searchsorted(within, ranks[row] - before[row])]
        return found


def ratio_of_sides(value: float, base: np.ndarray, other: np.ndarray, independent: float) -> Ratio:
    """The ratio `value`, other / base, with the interval that the draws [n] of both sides' figures span.

    independent: how many independent samples the smaller side has, its blocks. Draws of few samples spread too little,
    by sqrt((n - 1) / n), and the normal distribution's tails are thinner than Student's; the interval is widened by
    both (Hesterberg, "What teachers should know about the bootstrap", 2015).
    """
    from scipy import stats

    n, share = max(independent, 2.0), (1 + CONFIDENCE) / 2
    widen = float(stats.t.ppf(share, n - 1) / stats.norm.ppf(share) * np.sqrt(n / (n - 1)))
    logs = np.log(other) - np.log(base)
    middle = float(np.median(logs))
    low, high = interval(logs)
    return Ratio(value, float(value * np.exp(widen * (low - middle))), float(value * np.exp(widen * (high - middle))))


def ratio_of_rounds(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], draws: int = 10_000, seed: int = 0
) -> Ratio:
    """Geometric mean over rounds of the second's mean over the first's; each a list of rounds, each round its samples.

    The interval is the percentile bootstrap in two stages (Davison and Hinkley, Bootstrap Methods and their Application,
    1997, section 3.8): rounds are drawn with replacement, both runs of a round together since they are a pair, then
    calls within each run. With one round only the calls vary, so the interval says nothing of rounds.

    Raises:
        ValueError: when the numbers of rounds differ or there is none.
    """
    if len(first) != len(second) or not first:
        raise ValueError("both contestants need the same number of rounds, at least one")
    rng = np.random.default_rng(seed)
    rounds = len(first)
    by_round = np.stack(
        [
            np.log(_drawn_means(after, (rounds, draws), rng) / _drawn_means(before, (rounds, draws), rng))
            for before, after in zip(first, second, strict=True)
        ]
    )
    chosen = rng.integers(rounds, size=(rounds, draws))
    places, numbers = np.ogrid[:rounds, :draws]
    low, high = interval(by_round[chosen, places, numbers].mean(axis=0))
    observed = np.mean([np.log(np.mean(after) / np.mean(before)) for before, after in zip(first, second, strict=True)])
    return Ratio(float(np.exp(observed)), float(np.exp(low)), float(np.exp(high)))


def _drawn_means(calls: Sequence[float], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Means of calls drawn with replacement, an array of this shape."""
    values = np.asarray(calls, dtype=float)
    means: np.ndarray = values[rng.integers(len(values), size=(*shape, len(values)))].mean(axis=-1)
    return means


def mean_of_pairs(differences: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of paired differences [n] with the interval of the ordinary bootstrap over the pairs: (mean, low, high)."""
    drawn = differences[rng.integers(0, len(differences), (DRAWS, len(differences)))].mean(axis=1)
    return float(differences.mean()), *interval(drawn)
