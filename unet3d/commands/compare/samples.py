"""The samples of a results.json as arrays, and the figures and parts that are made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from unet3d.results import window
from unet3d.results.reader import HIDDEN
from unet3d.results.schema import Results
from unet3d.results.timing import percentiles
from unet3d.results.window import Calls


def compact(doc: Results, names: Sequence[str]) -> Results:
    """The document with these lists of samples, where it has them, as arrays; without other lists, series and profile.

    A list of a million numbers takes four times an array's memory.
    """
    lists = cast(Mapping[str, list[float]], doc["samples"])
    changed: dict[str, object] = {**doc, "samples": {name: np.asarray(lists[name], float) for name in names if name in lists}}
    changed.pop("profile", None)
    if telemetry := doc.get("telemetry"):
        changed["telemetry"] = {name: part for name, part in telemetry.items() if name != "series"}
    return cast(Results, changed)


def arrays(doc: Results) -> dict[str, np.ndarray]:
    """Every list of samples [calls]."""
    return {name: np.asarray(values, float) for name, values in cast(Mapping[str, list[float]], doc["samples"]).items()}


def streams(doc: Results) -> int:
    """Calls that were in flight at the same time, in each rank."""
    return int(doc["settings"]["requested"]["streams"])


def calls(doc: Results, overhead: bool) -> list[Calls]:
    """The calls of each rank in the order of their starts; overhead: from staging to labels."""
    every = arrays(doc)
    begin, end = every["start_s"], every["start_s"] + every["latency_ms"] / 1e3
    if overhead:
        begin = begin - (every["stage_ms"] - every.get(HIDDEN, 0.0)) / 1e3
        end = end + every["post_ms"] / 1e3
    return [Calls(begin[own], end[own], every["volumes"][own], every["stream"][own]) for own in _own(every)]


def latencies(doc: Results) -> list[np.ndarray]:
    """Of each rank the latencies in ms, in the order of the calls' starts."""
    every = arrays(doc)
    return [every["latency_ms"][own] for own in _own(every)]


def _own(every: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Of each rank the places of its calls, in the order of their starts."""
    places = [np.flatnonzero(every["rank"] == rank) for rank in np.unique(every["rank"])]
    return [own[np.argsort(every["start_s"][own], kind="stable")] for own in places]


def figures(doc: Results) -> dict[str, float]:
    """Throughputs in volumes per second and latencies in ms, by the rules of `unet3d.results.timing`.

    From the samples, not from the document's statistics: results of every age are counted by the same rules.
    """
    throughput, with_overhead = window.rates(calls(doc, False), calls(doc, True), streams(doc))
    every = arrays(doc)["latency_ms"]
    p50, p90 = (float(percentiles(every[None], share)[0]) for share in (50, 90))
    return {
        "throughput": throughput,
        "throughput_with_overhead": with_overhead,
        "mean": float(every.mean()),
        "p50": p50,
        "p90": p90,
    }


def rounds(doc: Results) -> int:
    """Rounds of the rank with the fewest: calls that follow each other, concurrent ones counted once.

    0 where streams were too few calls for a time in which all of them are in flight.
    """
    by_rank = calls(doc, False)
    if streams(doc) > 1 and not all(own.steady(streams(doc)) for own in by_rank):
        return 0
    return min(len(own.begin) for own in by_rank) // streams(doc)


def parts(doc: Results, overhead: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each rank (volumes, seconds) of each round, in order; see `window.rank_parts`."""
    count = max(1, rounds(doc))
    return [window.rank_parts(own, streams(doc), overhead, count) for own in calls(doc, overhead)]
