"""Ratios of two sides with their confidence, from the raw samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unet3d.commands.compare import bootstrap
from unet3d.commands.compare.bootstrap import CONFIDENCE, DRAWS, FEWEST, Ratio
from unet3d.commands.compare.runs import Side

SEED = 20190


def ratios(base: Side, other: Side) -> dict[str, Ratio]:
    """other / base of throughput, with and without overhead, and of latency: mean, p50 and p90.

    A side with several runs stands for their mean, and whole runs are drawn before their calls.
    """
    metrics = ("throughput", "throughput_with_overhead", "mean", "p50", "p90")
    if not (base.enough and other.enough):
        return {metric: Ratio(other.value(metric) / base.value(metric), None, None) for metric in metrics}
    rng = np.random.default_rng(SEED)
    found = {}
    for metric in metrics:
        drawn = [_side(side, metric, rng) for side in (base, other)]
        independent = min(_independent(side, metric) for side in (base, other))
        found[metric] = bootstrap.ratio(other.value(metric) / base.value(metric), *drawn, independent)
    return found


def _side(side: Side, metric: str, rng: np.random.Generator) -> np.ndarray:
    each = np.stack([_run(doc, metric, rng) for doc in side.docs])
    if len(each) == 1:
        return each[0]
    return np.take_along_axis(each, rng.integers(0, len(each), each.shape), axis=0).mean(axis=0)


def _run(doc: Mapping[str, Any], metric: str, rng: np.random.Generator) -> np.ndarray:
    """The run's figure for each draw."""
    series = _series(doc, metric)
    drawn = [bootstrap.draw(one, rng, DRAWS) for one in series]
    if metric.startswith("throughput"):
        # Ranks start together; all volumes are done when the slowest rank is.
        return sum(doc["samples"]["volumes"]) / np.max([one.sum(axis=1) for one in drawn], axis=0)
    together = np.concatenate(drawn, axis=1)
    if metric == "mean":
        return together.mean(axis=1)
    share = {"p50": 0.5, "p90": 0.9}[metric]
    rank = max(1, int(np.ceil(share * together.shape[1])))
    return np.partition(together, rank - 1, axis=1)[:, rank - 1]


def _independent(side: Side, metric: str) -> float:
    """How many independent samples a side has: its runs, where it has several, otherwise its blocks of calls."""
    if len(side.docs) > 1:
        return float(len(side.docs))
    return min(len(one) / bootstrap.block_length(one) for one in _series(side.docs[0], metric))


def _series(doc: Mapping[str, Any], metric: str) -> list[np.ndarray]:
    """Of each rank the samples, in the order of time, from which the figure is made.

    For latencies they are the latencies. For throughput they are the parts whose sum is the measured time: with one
    call in flight each call's time, with several the time between one call's end and the next one's.
    """
    samples = {name: np.asarray(doc["samples"][name], float) for name in ("start_s", "latency_ms", "stage_ms", "post_ms")}
    ranks = np.asarray(doc["samples"]["rank"])
    latency, start = samples["latency_ms"] / 1e3, samples["start_s"]
    begin, end = start, start + latency
    if metric == "throughput_with_overhead":
        begin, end = start - samples["stage_ms"] / 1e3, end + samples["post_ms"] / 1e3
    found = []
    for rank in np.unique(ranks):
        own = np.flatnonzero(ranks == rank)
        own = own[np.argsort(start[own], kind="stable")]
        if not metric.startswith("throughput"):
            found.append(samples["latency_ms"][own])
        elif int(doc["settings"]["requested"]["streams"]) == 1:
            found.append((end - begin)[own])
        else:
            ends = np.sort(end[own])
            found.append(np.diff(ends, prepend=begin[own].min()))
    return found


def dice(base: Side, other: Side) -> dict[str, tuple[float, float, float]]:
    """Mean difference of Dice, other - base, of each region with its interval, over the cases that both sides scored."""
    found = {}
    one, two = ((side.docs[0]["accuracy"] or {}).get("cases", {}) for side in (base, other))
    rng = np.random.default_rng(SEED)
    for region in ("WT", "TC", "ET"):
        pairs = [(one[name][region], two[name][region]) for name in one if name in two]
        known = np.array([after - before for before, after in pairs if before is not None and after is not None])
        if len(known):
            found[region] = bootstrap.difference(known, rng)
    return found


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


CONFIDENCE_TEXT = f"{CONFIDENCE:.0%}"
