"""Makes one record of those of all ranks: rank 0 does it, in memory, when every rank has measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from unet3d import columns
from unet3d.engines.base import Effective
from unet3d.errors import MismatchError
from unet3d.results.facts import (
    Agreement,
    Bound,
    PeakMemory,
    RunWarning,
    VolumesFacts,
    WarmUpFacts,
    WeightsFacts,
)
from unet3d.results.record import Record, Section
from unet3d.results.timing import Sample, Statistics, summarise

# Share by which the slowest rank may be behind the fastest without a warning.
UNEVEN = 0.1
# Of a rank's record; what rank 0 makes of them is handed to the process that started it.
FIELDS = (
    "effective",
    "weights",
    "data",
    "check",
    "full_size_check",
    "load_seconds",
    "warm_up",
    "planned_calls",
    "samples",
    "accuracy",
    "tflop_per_volume",
    "memory",
    "environment",
    "ranks",
    "figures",
    "warnings",
    "pool",
    "telemetry",
    "disturbance",
    "ceilings",
    "executed_tflop",
    "profile",
)
# What has to be the same on every rank for one number to be of one thing.
SAME = ("engine", "precision", "jit", "layout", "network", "amp", "ipex")


@dataclass(frozen=True)
class Part:
    """What rank 0 needs of a rank that has measured."""

    place: Bound
    node: int
    host: str
    clock: str  # see `clock`
    window_start: float
    planned_calls: int
    samples: Sequence[Sample]
    weights: WeightsFacts
    data: VolumesFacts
    tflop_per_volume: float
    effective: Effective
    check: Agreement
    warm_up: WarmUpFacts
    load_seconds: Mapping[str, float]
    memory: PeakMemory
    warnings: Sequence[RunWarning]


def part(record: Record, place: Bound) -> Part:
    """This rank's part."""
    known = (record.weights, record.data, record.effective, record.check, record.warm_up, record.memory)
    assert None not in known, "a rank that has measured knows all of it"
    weights, data, effective, check, warm_up, memory = cast(Any, known)
    return Part(
        place=place,
        node=int(os.environ["GROUP_RANK"]),
        host=platform.node(),
        clock=clock(),
        window_start=record.window_start,
        planned_calls=record.planned_calls,
        samples=record.samples,
        weights=weights,
        data=data,
        tflop_per_volume=record.tflop_per_volume,
        effective=effective,
        check=check,
        warm_up=warm_up,
        load_seconds=record.load_seconds,
        memory=memory,
        warnings=record.warnings,
    )


def clock() -> str:
    """Names the monotonic clock of this process: processes of one boot of one machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return platform.node()


def pool(record: Record, parts: Sequence[Part]) -> None:
    """Turn rank 0's record into that of all ranks.

    Samples of one machine are put on one clock; between machines the barrier before the window is what they share.

    Raises:
        MismatchError: when ranks ran different things.
    """
    _must_agree(parts)
    first = {part.clock: min(other.window_start for other in parts if other.clock == part.clock) for part in parts}
    skews = [part.window_start - first[part.clock] for part in parts]
    own = [
        [replace(sample, start=sample.start + skew) for sample in part.samples] for part, skew in zip(parts, skews, strict=True)
    ]
    record.samples = sorted((sample for samples in own for sample in samples), key=lambda sample: sample.start)
    record.planned_calls = sum(part.planned_calls for part in parts)
    record.check = max((part.check for part in parts), key=lambda check: check.relative_error)
    record.load_seconds = {name: max(part.load_seconds.get(name, 0.0) for part in parts) for name in parts[0].load_seconds}
    record.warm_up = replace(parts[0].warm_up, settled=all(part.warm_up.settled for part in parts))
    devices = [part.memory.peak_device_bytes for part in parts]
    on_devices = [peak for peak in devices if peak is not None]
    record.memory = PeakMemory(
        sum(part.memory.peak_host_bytes for part in parts),
        max(on_devices) if len(on_devices) == len(devices) else None,
    )
    record.ranks = [
        _row(rank, part, summarise(samples, record.settings.streams))
        for rank, (part, samples) in enumerate(zip(parts, own, strict=True))
    ]
    record.pool = together = _together(record.ranks, own, max(skews))
    record.warnings = _warnings(parts)
    record.warn(*_uneven(record.ranks, together))


def hand_over(record: Record) -> dict[str, Any]:
    """The fields that the process which started the ranks puts into its own record; see `take_over`."""
    return {name: getattr(record, name) for name in FIELDS}


def take_over(record: Record, fields: Mapping[str, Any]) -> None:
    """Put what rank 0 has handed over into the record of the process that started it."""
    seen = record.environment.get("hardware", {})
    for name in FIELDS:
        setattr(record, name, fields[name])
    # A rank is bound to some of the cores; the machine is what the process saw that started it.
    record.environment["hardware"] = {**record.environment.get("hardware", {}), **seen}


HEAD = ("where", "rank", "node", "calls", "img/s", "mean ms", "p90 ms", "peak GiB")


def table(record: Record, width: int | None = None) -> list[str]:
    """A line a rank, and which was the slowest. width: of a line."""
    rows = [
        [
            row["place"]["name"],
            str(row["rank"]),
            str(row["node"]),
            str(row["calls"]),
            f"{row['throughput']:.4g}",
            f"{row['latency_mean_ms']:.2f}",
            f"{row['latency_p90_ms']:.2f}",
            f"{row['peak_host_bytes'] / 2**30:.2f}",
        ]
        for row in record.ranks
    ]
    together = record.pool or {}
    slowest = (
        f"slowest: rank {together['slowest_rank']}, which took {together['slowest_behind']:.1%} longer than the fastest; "
        f"all ranks were at work for {together['all_at_work']:.1%} of the window of {together['window_s']:.4g} s"
    )
    return [*columns.table(HEAD, rows, width), slowest]


def _must_agree(parts: Sequence[Part]) -> None:
    first = parts[0]
    for rank, part in enumerate(parts):
        ran, expected = asdict(part.effective), asdict(first.effective)
        differing = [f"{name} {ran[name]} instead of {expected[name]}" for name in SAME if ran[name] != expected[name]]
        if part.weights.sha256 != first.weights.sha256:
            differing.append("other weights")
        if part.tflop_per_volume != first.tflop_per_volume:
            differing.append("another network or volume")
        if part.data.names_sha256 != first.data.names_sha256:
            differing.append("other cases")
        if differing:
            raise MismatchError(
                f"rank {rank} on {part.host} ran {', '.join(differing)} of rank 0 on {first.host}: no "
                "number is reported. Give every node the same settings, files and software"
            )


def _row(rank: int, part: Part, stats: Statistics) -> Section:
    return {
        "rank": rank,
        "node": part.node,
        "host": part.host,
        "place": asdict(part.place),
        "device": part.effective.device,
        "calls": stats.calls,
        "volumes": stats.volumes,
        "throughput": stats.throughput,
        "throughput_with_overhead": stats.throughput_with_overhead,
        "latency_mean_ms": stats.mean,
        "latency_p90_ms": stats.p90,
        "busy_s": stats.volumes / stats.throughput,
        "peak_host_bytes": part.memory.peak_host_bytes,
        "peak_device_bytes": part.memory.peak_device_bytes,
        "check": asdict(part.check),
        "warm_up": asdict(part.warm_up),
        "load_seconds": part.load_seconds,
    }


def _together(rows: Sequence[Section], own: Sequence[Sequence[Sample]], skew: float) -> Section:
    starts = [min(sample.start for sample in samples) for samples in own]
    ends = [max(sample.start + sample.latency for sample in samples) for samples in own]
    busy = [row["busy_s"] for row in rows]
    window = max(ends) - min(starts)
    return {
        "ranks": len(own),
        "nodes": len({row["node"] for row in rows}),
        "window_s": window,
        "start_skew_s": skew,
        "all_at_work": max(0.0, min(ends) - max(starts)) / window,
        "slowest_rank": busy.index(max(busy)),
        "slowest_behind": max(busy) / min(busy) - 1,
    }


def _warnings(parts: Sequence[Part]) -> list[RunWarning]:
    """Each warning once: as it is where all ranks give it alike, else with the first rank that gives it."""
    by_name: dict[str, list[tuple[int, RunWarning]]] = {}
    for rank, part in enumerate(parts):
        for warning in part.warnings:
            by_name.setdefault(warning.name, []).append((rank, warning))
    merged = []
    for said in by_name.values():
        rank, warning = said[0]
        if len({other.message for _, other in said}) > 1 or len(said) < len(parts):
            others = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
            warning = replace(warning, message=f"rank {rank}{others}: {warning.message}")
        merged.append(warning)
    return merged


def _uneven(rows: Sequence[Section], together: Section) -> Iterator[RunWarning]:
    if together["slowest_behind"] > UNEVEN:
        rank = together["slowest_rank"]
        yield RunWarning(
            "uneven-ranks",
            f"rank {rank} ({rows[rank]['place']['name']}) took "
            f"{together['slowest_behind']:.0%} longer than the fastest; the throughput is that of the slowest.",
            "Look for other work on its cores or device, and for lower clock rates there.",
        )
    unbound = {row["place"]["memory_not_bound"] for row in rows} - {None}
    if unbound:
        yield RunWarning(
            "memory-not-bound",
            f"ranks are pinned, but their memory is not bound: {sorted(unbound)[0]}.",
            "Install what is missing, or start the container with the right to do it.",
        )
