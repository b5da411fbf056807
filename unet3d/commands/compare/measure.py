"""Ratios of two sides with their confidence, from the raw samples."""

from __future__ import annotations

import numpy as np

from unet3d.commands.compare.runs import METRICS, Side
from unet3d.results import bootstrap
from unet3d.results.bootstrap import DRAWS, FEWEST, Ratio
from unet3d.results.schema import Results
from unet3d.results.timing import percentiles
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
    sure = {}
    for metric, value in values.items():
        base_draws, other_draws = (_draws_of_side(side, metric, rng) for side in (base, other))
        independent = min(_independent(side, metric) for side in (base, other))
        sure[metric] = bootstrap.ratio_of_sides(value, base_draws, other_draws, independent)
    return sure


def spread(side: Side, metric: str) -> Ratio:
    """A figure of METRICS with its interval; without one where there are too few calls."""
    value = side.value(metric)
    if not side.enough:
        return Ratio(value, None, None)
    draws = _draws_of_side(side, metric, np.random.default_rng(SEED))
    return bootstrap.ratio_of_sides(value, np.ones_like(draws), draws, _independent(side, metric))


def _draws_of_side(side: Side, metric: str, rng: np.random.Generator) -> np.ndarray:
    """The side's figure for each draw [DRAWS]."""
    each = np.stack([_draws_of_run(doc, metric, rng) for doc in side.docs])
    if len(each) == 1:
        alone: np.ndarray = each[0]
        return alone
    means: np.ndarray = np.take_along_axis(each, rng.integers(0, len(each), each.shape), axis=0).mean(axis=0)
    return means


def _draws_of_run(doc: Results, metric: str, rng: np.random.Generator) -> np.ndarray:
    """The run's figure for each draw [DRAWS]."""
    by_rank = [bootstrap.draw_blocks(samples, rng, DRAWS) for samples in series(doc, metric)]
    drawn: np.ndarray
    if metric.startswith("throughput"):
        # Ranks start together; all volumes are done when the slowest rank is.
        drawn = sum(doc["samples"]["volumes"]) / np.max([samples.sum(axis=1) for samples in by_rank], axis=0)
        return drawn
    together = np.concatenate(by_rank, axis=1)
    drawn = together.mean(axis=1) if metric == "mean" else percentiles(together, PERCENTILES[metric])
    return drawn


def _independent(side: Side, metric: str) -> float:
    """How many independent samples a side has: its runs, where it has several, otherwise its blocks of calls."""
    if len(side.docs) > 1:
        return float(len(side.docs))
    return min(len(samples) / bootstrap.block_length(samples) for samples in series(side.docs[0], metric))


def series(doc: Results, metric: str) -> list[np.ndarray]:
    """Of each rank the samples, in the order of time, from which a figure of METRICS is made.

    For latencies they are the latencies, in ms. For throughput they are the parts whose sum is the measured time, in
    seconds: with one call in flight each call's time, with several the time between one call's end and the next one's.
    """
    samples = doc["samples"]
    latency_ms, start = np.asarray(samples["latency_ms"], float), np.asarray(samples["start_s"], float)
    ranks = np.asarray(samples["rank"])
    begin, end = start, start + latency_ms / 1e3
    if metric == "throughput_with_overhead":
        begin = start - np.asarray(samples["stage_ms"], float) / 1e3
        end = end + np.asarray(samples["post_ms"], float) / 1e3
    by_rank = []
    for rank in np.unique(ranks):
        own = np.flatnonzero(ranks == rank)
        own = own[np.argsort(start[own], kind="stable")]
        if not metric.startswith("throughput"):
            by_rank.append(latency_ms[own])
        elif int(doc["settings"]["requested"]["streams"]) == 1:
            by_rank.append((end - begin)[own])
        else:
            ends = np.sort(end[own])
            by_rank.append(np.diff(ends, prepend=begin[own].min()))
    return by_rank


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
        return f"cannot be told: fewer than {FEWEST} calls"
    if not ratio.beyond_noise:
        return "no difference beyond noise"
    better = (ratio.value > 1) == more_is_better
    return f"{'better' if better else 'worse'} by {abs(ratio.value - 1):.1%}"


def interval(ratio: Ratio) -> str:
    """The confidence interval as text."""
    return "-" if ratio.low is None else f"{ratio.low:.3f} to {ratio.high:.3f}"
