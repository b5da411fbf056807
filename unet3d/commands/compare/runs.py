"""The sides of a comparison: their results.json, whether they may be compared, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from unet3d.errors import UserError
from unet3d.results.bootstrap import FEWEST
from unet3d.results.schema import Results, Value

METRICS = ("throughput", "throughput_with_overhead", "mean", "p50", "p90")
SAMPLES = ("latency_ms", "start_s", "stage_ms", "post_ms", "rank", "volumes")
# Settings that say where files are or how much is printed.
UNIMPORTANT = ("output_dir", "status_prints", "verbose")


@dataclass(frozen=True)
class Side:
    """One side: the same thing measured once or in several runs. `docs`: their results.json."""

    name: str
    docs: list[Results]

    @property
    def calls(self) -> int:
        return sum(len(doc["samples"]["latency_ms"]) for doc in self.docs)

    @property
    def enough(self) -> bool:
        """Whether noise can be told from a difference."""
        return all(len(doc["samples"]["latency_ms"]) >= FEWEST for doc in self.docs)

    def value(self, metric: str) -> float:
        """Mean over the runs of a figure of `statistics`, one of METRICS."""
        return float(np.mean([figure(doc, metric) for doc in self.docs]))


def figure(doc: Results, metric: str) -> float:
    """A figure of METRICS of a run that measured something."""
    return cast(Mapping[str, float], doc["statistics"])[metric]


def read(argument: str) -> Side:
    """A side from a folder or results.json, or from several runs of the same, divided by commas.

    Raises:
        UserError: when one of them cannot be read, holds no sample, or repeats differ in what they measure.
    """
    from unet3d.results import report

    try:
        whole = Path(argument).exists()
        paths = [Path(argument)] if whole else [Path(part) for part in argument.split(",") if part.strip()]
        any(path.is_dir() for path in paths)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{argument[:80]!r} cannot be a results folder ({reason}); name OUTPUT_DIRs of runs") from None
    docs = []
    for path in paths:
        file = path / "results.json" if path.is_dir() else path
        doc = report.read(file)
        try:
            lengths = {len(cast(Mapping[str, list[float]], doc["samples"])[name]) for name in SAMPLES}
            latencies = np.asarray(doc["samples"]["latency_ms"], float)
            known = all(figure(doc, metric) > 0 for metric in METRICS) if len(latencies) else False
            identity(doc), facts(doc)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{file}: is damaged (samples or statistics are not as they were written); run it again") from None
        if not known:
            raise UserError(
                f"{file}: holds no timed call ({doc.get('incomplete_reason') or 'nothing was measured'}); run it again"
            )
        if len(lengths) != 1 or not np.all(latencies > 0):
            raise UserError(f"{file}: is damaged (its samples do not belong together); run it again")
        docs.append(doc)
    if not docs:
        raise UserError(f"{argument!r} names no results; give the OUTPUT_DIR of a run")
    side = Side(argument.rstrip("/"), docs)
    for doc in docs[1:]:
        if wrong := [*different_workload(docs[0], doc), *_changed(docs[0], doc, "settings.")]:
            raise UserError(
                f"{argument}: its runs are not repeats of one another ({'; '.join(wrong)}); divide by commas only "
                "runs of the same settings"
            )
    return side


def identity(doc: Results) -> dict[str, Value]:
    """What is measured, which has to be the same on both sides."""
    weights, data = doc["weights"], doc["data"]
    return {
        "mode": doc["mode"],
        "scenario": doc["scenario"],
        "volume": "×".join(map(str, doc["volume"]["shape"])),
        "batch size": doc["settings"]["requested"]["batch_size"],
        "weights": weights.get("kind"),
        "base features": weights.get("base_features"),
        "volumes": data.get("kind"),
        "cases": None
        if data.get("cases") is None
        else f"{len(data['cases'])} of fold {data.get('fold')}, names {str(data.get('names_sha256'))[:8]}",
    }


def different_workload(base: Results, other: Results) -> list[str]:
    """One text for each part of the workload that differs."""
    theirs = identity(other)
    return [f"{name}: {value} and {theirs[name]}" for name, value in identity(base).items() if value != theirs[name]]


def not_comparable(base: Side, other: Side) -> list[str]:
    """Why the two sides should not be compared; empty when they may."""
    reasons = [
        f"{side.name} is incomplete ({doc.get('incomplete_reason')})"
        for side in (base, other)
        for doc in side.docs
        if not doc.get("complete")
    ]
    return reasons + different_workload(base.docs[0], other.docs[0])


def facts(doc: Results) -> dict[str, str]:
    """Everything that a result may depend on, flat, as text."""
    environment, benchmark = doc["environment"], cast(Mapping[str, Value], doc["benchmark"])
    sections: dict[str, Mapping[str, Value]] = {
        "settings": {name: value for name, value in doc["settings"]["requested"].items() if name not in UNIMPORTANT},
        "ran": cast(Mapping[str, Value], doc["effective"]),
        "machine": environment.get("hardware", {}),
        "software": environment.get("versions", {}),
        "variables": environment.get("variables", {}),
        "weights": {name: value for name, value in cast(Mapping[str, Value], doc["weights"]).items() if name != "path"},
        "benchmark": {name: benchmark.get(name) for name in ("version", "git_commit", "git_dirty")},
        "ranks": {"count": max(1, len(doc["ranks"]))},
    }
    flat: dict[str, str] = {}
    for name, section in sections.items():
        _flatten(name, section, flat)
    return flat


def _flatten(prefix: str, value: Value, into: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _flatten(f"{prefix}.{name}", item, into)
    elif isinstance(value, list):
        into[prefix] = ", ".join(map(str, value))
    else:
        into[prefix] = "none" if value is None else str(value)


def _changed(base: Results, other: Results, prefix: str = "") -> list[str]:
    ours, theirs = facts(base), facts(other)
    return [
        f"{name}: {ours.get(name, '-')} and {theirs.get(name, '-')}"
        for name in sorted({*ours, *theirs})
        if name.startswith(prefix) and ours.get(name) != theirs.get(name)
    ]


def differing(sides: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """Name, and its value on each side, of every fact that is not the same on all."""
    facts_of_sides = [[facts(doc) for doc in side.docs] for side in sides]
    names = {name: None for runs in facts_of_sides for run in runs for name in run}  # in the order of their sections
    rows = []
    for name in names:
        values = [" or ".join(dict.fromkeys(run.get(name, "-") for run in runs)) for runs in facts_of_sides]
        if len(set(values)) > 1 or any(" or " in value for value in values):
            rows.append((name, values))
    return rows
