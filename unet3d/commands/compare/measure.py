"""Ratios of two sides with their confidence, from the raw samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet3d.commands.compare import samples
from unet3d.commands.compare.runs import METRICS, Side
from unet3d.errors import shown
from unet3d.results import bootstrap, window
from unet3d.results.bootstrap import FEWEST, DrawnPercentiles, Ratio, Units
from unet3d.results.schema import Results
from unet3d.workload import REGIONS

SEED = 20190
PERCENTILES = {"p50": 50, "p90": 90}


def ratios(base: Side, other: Side) -> dict[str, Ratio]:
    """other / base of throughput, with and without overhead, and of latency: mean, p50 and p90.

    A side with several runs stands for their mean, and whole runs are drawn before their calls.
    """
    values = {metric: other.value(metric) / base.value(metric) for metric in METRICS}
    if not (base.enough and other.enough):
        return {metric: Ratio(value, None, None) for metric, value in values.items()}
    rng = np.random.default_rng(SEED)
    (base_draws, base_independent), (other_draws, other_independent) = (_side(side, rng) for side in (base, other))
    return {
        metric: bootstrap.ratio_of_sides(
            value, base_draws[metric], other_draws[metric], min(base_independent[metric], other_independent[metric])
        )
        for metric, value in values.items()
    }


Figures = dict[str, np.ndarray]  # by metric, one for each draw [DRAWS]


def spread(side: Side, metric: str) -> Ratio:
    """A figure of METRICS with its interval; without one where there are too few calls."""
    value = side.value(metric)
    if not side.enough:
        return Ratio(value, None, None)
    draws, independent = _side(side, np.random.default_rng(SEED))
    return bootstrap.ratio_of_sides(value, np.ones_like(draws[metric]), draws[metric], independent[metric])


def _side(side: Side, rng: np.random.Generator) -> tuple[Figures, dict[str, float]]:
    """Figures for each draw, and the number of independent samples: of runs where there are several, else of blocks."""
    runs = [_run(doc, rng) for doc in side.docs]
    if len(runs) == 1:
        return runs[0]
    drawn = {}
    for metric in METRICS:
        each = np.stack([figures[metric] for figures, _ in runs])
        drawn[metric] = np.take_along_axis(each, rng.integers(0, len(each), each.shape), axis=0).mean(axis=0)
    return drawn, dict.fromkeys(METRICS, float(len(runs)))


def _run(doc: Results, rng: np.random.Generator) -> tuple[Figures, dict[str, float]]:
    figures, independent = _latencies(samples.latencies(doc), samples.streams(doc), rng)
    for metric, overhead in (("throughput", False), ("throughput_with_overhead", True)):
        figures[metric], independent[metric] = _throughput(samples.parts(doc, overhead), rng)
    return figures, independent


def _latencies(by_rank: Sequence[np.ndarray], streams: int, rng: np.random.Generator) -> tuple[Figures, dict[str, float]]:
    """Mean and percentiles of latencies, by rank in the order of time; concurrent calls stay together in blocks."""
    series = [Units.of(len(own), bootstrap.block_length(own, streams)) for own in by_rank]
    added = np.concatenate([bootstrap.sums(units, own) for units, own in zip(series, by_rank, strict=True)])
    number = np.concatenate([bootstrap.sums(units, np.ones(units.samples)) for units in series])
    percentiles = DrawnPercentiles(series, by_rank)
    drawn: dict[str, list[np.ndarray]] = {"mean": [], **{metric: [] for metric in PERCENTILES}}
    for chunk in bootstrap.draw(series, rng, bootstrap.DRAWS):
        counts = np.concatenate(chunk, axis=1)
        drawn["mean"].append(counts @ added / (counts @ number))
        for metric, share in PERCENTILES.items():
            drawn[metric].append(percentiles.of(counts, share))
    blocks = min(units.samples / (units.length * units.size) for units in series)
    return {metric: np.concatenate(parts) for metric, parts in drawn.items()}, dict.fromkeys(drawn, blocks)


def _throughput(by_rank: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Throughput from parts (volumes, seconds) of each rank, drawn in blocks of neighbouring parts."""
    paces = [volumes / np.maximum(seconds, 1e-9) for volumes, seconds in by_rank]
    series = [Units.of(len(pace), bootstrap.block_length(pace)) for pace in paces]
    added = [
        (float(volumes.sum()), bootstrap.sums(units, volumes), bootstrap.sums(units, seconds))
        for units, (volumes, seconds) in zip(series, by_rank, strict=True)
    ]
    drawn = [
        window.throughput(
            [(own, counts @ volumes, counts @ seconds) for counts, (own, volumes, seconds) in zip(chunk, added, strict=True)]
        )
        for chunk in bootstrap.draw(series, rng, bootstrap.DRAWS)
    ]
    return np.concatenate(drawn), min(units.samples / (units.length * units.size) for units in series)


def dice(base: Side, other: Side) -> dict[str, tuple[float, float, float]]:
    """Mean difference of Dice, other - base, of each region with its interval, over the cases that both sides scored."""
    before, after = (_scores(side) for side in (base, other))
    rng = np.random.default_rng(SEED)
    differences = {}
    for region in REGIONS:
        pairs = [(before[name][region], after[name][region]) for name in before if name in after]
        known = np.array([later - earlier for earlier, later in pairs if earlier is not None and later is not None])
        if len(known):
            differences[region] = bootstrap.mean_of_pairs(known, rng)
    return differences


def _scores(side: Side) -> dict[str, dict[str, float | None]]:
    accuracy = side.docs[0]["accuracy"]
    return accuracy["cases"] if accuracy else {}


def verdict(ratio: Ratio, more_is_better: bool) -> str:
    """What may be said of a ratio."""
    if ratio.low is None:
        return f"cannot be told: fewer than {FEWEST} calls in a row"
    if not ratio.beyond_noise:
        return "no difference beyond noise"
    said = "better" if (ratio.value > 1) == more_is_better else "worse"
    return f"{said} by {abs(ratio.value - 1):.1%}" if ratio.value < 2 else f"{said}, {ratio.value:.4g} times"


def gate(name: str, ratio: Ratio, limit: float) -> tuple[bool, str]:
    """Whether a side of this ratio of throughputs fails --fail-if-slower, and the line that says why."""
    slower, name = 1 - ratio.value, shown(name)
    if slower > limit and ratio.beyond_noise:
        return True, f"FAIL: {name} is slower by {slower:.1%}, more than {limit:.1%} and beyond noise"
    if slower > limit:
        return False, (
            f"PASS, but too noisy to tell: {name} is slower by {slower:.1%}, more than {limit:.1%}, and noise "
            "explains it; raise NUM_ITERATIONS or repeat the runs"
        )
    return False, f"PASS: {name} is not slower by more than {limit:.1%} (throughput {ratio.value - 1:+.1%})"


def interval(ratio: Ratio) -> str:
    """The confidence interval as text."""
    return "-" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
