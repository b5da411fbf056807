"""Makes one record of those of all ranks: rank 0 does it, in memory, when every rank has measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unet3d.errors import MismatchError
from unet3d.results.record import Record, Warning
from unet3d.results.timing import Statistics, summarise

# Share by which the slowest rank may be behind the fastest without a warning.
UNEVEN = 0.1
# What rank 0 hands to the process that started it.
FIELDS = (
    "effective",
    "weights",
    "data",
    "check",
    "load_seconds",
    "warm_up",
    "planned_calls",
    "samples",
    "accuracy",
    "tflop_per_volume",
    "memory",
    "environment",
    "ranks",
    "extra",
    "figures",
    "warnings",
)
# What has to be the same on every rank for one number to be of one thing.
SAME = ("engine", "precision", "jit", "layout", "network", "amp", "ipex")


def part(record: Record, place: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 needs of a rank."""
    return {
        "place": place,
        "node": int(os.environ["GROUP_RANK"]),
        "host": platform.node(),
        "clock": clock(),
        "window_start": record.window_start,
        **{name: getattr(record, name) for name in FIELDS},
    }


def clock() -> str:
    """Names the monotonic clock of this process: processes of one boot of one machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return platform.node()


def pool(record: Record, parts: Sequence[dict[str, Any]]) -> None:
    """Turn rank 0's record into that of all ranks.

    Samples of one machine are put on one clock; between machines the barrier before the window is what they share.

    Raises:
        MismatchError: when ranks ran different things.
    """
    _must_agree(parts)
    first = {one["clock"]: min(other["window_start"] for other in parts if other["clock"] == one["clock"]) for one in parts}
    skews = [one["window_start"] - first[one["clock"]] for one in parts]
    own = [
        [replace(sample, start=sample.start + skew) for sample in one["samples"]]
        for one, skew in zip(parts, skews, strict=True)
    ]
    record.samples = sorted((sample for samples in own for sample in samples), key=lambda sample: sample.start)
    record.planned_calls = sum(one["planned_calls"] for one in parts)
    record.check = max((one["check"] for one in parts), key=lambda check: check["relative_error"])
    record.load_seconds = {name: max(one["load_seconds"].get(name, 0.0) for one in parts) for name in parts[0]["load_seconds"]}
    record.warm_up = {**parts[0]["warm_up"], "settled": all(one["warm_up"]["settled"] for one in parts)}
    devices = [one["memory"]["peak_device_bytes"] for one in parts]
    record.memory = {
        "peak_host_bytes": sum(one["memory"]["peak_host_bytes"] for one in parts),
        "peak_device_bytes": None if None in devices else max(devices),
    }
    record.ranks = [
        _row(rank, one, summarise(samples, record.settings.streams))
        for rank, (one, samples) in enumerate(zip(parts, own, strict=True))
    ]
    record.extra["pool"] = _together(record, own, max(skews))
    record.warnings = _warnings(parts)
    _warn_uneven(record)


def hand_over(record: Record) -> dict[str, Any]:
    """The fields that the process which started the ranks puts into its own record."""
    return {name: getattr(record, name) for name in FIELDS}


def table(record: Record) -> list[str]:
    """A line a rank, and which was the slowest."""
    width = max([len("where"), *(len(row["place"]["name"]) for row in record.ranks)])
    lines = [f"rank  {'where':<{width}}  node  calls      img/s    mean ms     p90 ms  peak GiB"]
    for row in record.ranks:
        lines.append(
            f"{row['rank']:>4}  {row['place']['name']:<{width}}  {row['node']:>4}  {row['calls']:>5}  "
            f"{row['throughput']:>9.4g}  {row['latency_mean_ms']:>9.2f}  {row['latency_p90_ms']:>9.2f}  "
            f"{row['peak_host_bytes'] / 2**30:>8.2f}"
        )
    found = record.extra["pool"]
    lines.append(
        f"slowest: rank {found['slowest_rank']}, which took {found['slowest_behind']:.1%} longer than the fastest; "
        f"all ranks were at work for {found['all_at_work']:.1%} of the window of {found['window_s']:.4g} s"
    )
    return lines


def _must_agree(parts: Sequence[dict[str, Any]]) -> None:
    for rank, one in enumerate(parts):
        differing = [
            f"{name} {one['effective'].get(name)} instead of {parts[0]['effective'].get(name)}"
            for name in SAME
            if one["effective"].get(name) != parts[0]["effective"].get(name)
        ]
        if one["weights"]["sha256"] != parts[0]["weights"]["sha256"]:
            differing.append("other weights")
        if one["tflop_per_volume"] != parts[0]["tflop_per_volume"]:
            differing.append("another network or volume")
        if one["data"].get("names_sha256") != parts[0]["data"].get("names_sha256"):
            differing.append("other cases")
        if differing:
            raise MismatchError(
                f"rank {rank} on {one['host']} ran {', '.join(differing)} of rank 0 on {parts[0]['host']}: no "
                "number is reported. Give every node the same settings, files and software"
            )


def _row(rank: int, one: dict[str, Any], stats: Statistics) -> dict[str, Any]:
    return {
        "rank": rank,
        "node": one["node"],
        "host": one["host"],
        "place": one["place"],
        "device": one["effective"]["device"],
        "calls": stats.calls,
        "volumes": stats.volumes,
        "throughput": stats.throughput,
        "throughput_with_overhead": stats.throughput_with_overhead,
        "latency_mean_ms": stats.mean,
        "latency_p90_ms": stats.p90,
        "busy_s": stats.volumes / stats.throughput,
        "peak_host_bytes": one["memory"]["peak_host_bytes"],
        "peak_device_bytes": one["memory"]["peak_device_bytes"],
        "check": one["check"],
        "warm_up": one["warm_up"],
        "load_seconds": one["load_seconds"],
    }


def _together(record: Record, own: list[list[Any]], skew: float) -> dict[str, Any]:
    starts = [min(sample.start for sample in samples) for samples in own]
    ends = [max(sample.start + sample.latency for sample in samples) for samples in own]
    busy = [row["busy_s"] for row in record.ranks]
    window = max(ends) - min(starts)
    return {
        "ranks": len(own),
        "nodes": len({row["node"] for row in record.ranks}),
        "window_s": window,
        "start_skew_s": skew,
        "all_at_work": max(0.0, min(ends) - max(starts)) / window,
        "slowest_rank": busy.index(max(busy)),
        "slowest_behind": max(busy) / min(busy) - 1,
    }


def _warnings(parts: Sequence[dict[str, Any]]) -> list[Warning]:
    """Each warning once: as it is where all ranks give it alike, else with the first rank that gives it."""
    found: dict[str, list[tuple[int, Warning]]] = {}
    for rank, one in enumerate(parts):
        for warning in one["warnings"]:
            # To each rank the others are a load; the process that started them has looked before.
            if warning.name != "other-load":
                found.setdefault(warning.name, []).append((rank, warning))
    merged = []
    for said in found.values():
        rank, warning = said[0]
        if len({one.message for _, one in said}) > 1 or len(said) < len(parts):
            others = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            warning = replace(warning, message=f"rank {rank}{others}: {warning.message}")
        merged.append(warning)
    return merged


def _warn_uneven(record: Record) -> None:
    found = record.extra["pool"]
    if found["slowest_behind"] > UNEVEN:
        rank = found["slowest_rank"]
        record.warn(
            "uneven-ranks",
            f"rank {rank} ({record.ranks[rank]['place']['name']}) took "
            f"{found['slowest_behind']:.0%} longer than the fastest; the throughput is that of the slowest.",
            "Look for other work on its cores or device, and for lower clock rates there.",
        )
    unbound = {row["place"]["memory_not_bound"] for row in record.ranks} - {None}
    if unbound:
        record.warn(
            "memory-not-bound",
            f"ranks are pinned, but their memory is not bound: {sorted(unbound)[0]}.",
            "Install what is missing, or start the container with the right to do it.",
        )
