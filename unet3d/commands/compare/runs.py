"""The sides of a comparison: their results.json, whether they may be compared, and in what they differ."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from unet3d.commands.compare import samples
from unet3d.config import kinds
from unet3d.errors import UserError, shown
from unet3d.results import reader
from unet3d.results.bootstrap import FEWEST
from unet3d.results.schema import Results, Value, rank_count

METRICS = ("throughput", "throughput_with_overhead", "mean", "p50", "p90")
SAMPLES = ("latency_ms", "start_s", "stage_ms", "post_ms", reader.HIDDEN, "rank", "stream", "volumes")
# Settings that say where files are or how much is printed.
UNIMPORTANT = ("output_dir", "status_prints", "verbose")


@dataclass(frozen=True)
class Side:
    """One side: the same thing measured once or in several runs.

    `docs`: their results.json, samples as arrays. `files`: where each was read from.
    """

    name: str
    docs: list[Results]
    files: tuple[Path, ...] = ()

    @property
    def calls(self) -> int:
        return sum(len(doc["samples"]["latency_ms"]) for doc in self.docs)

    @property
    def enough(self) -> bool:
        """Whether noise can be told from a difference."""
        return all(samples.rounds(doc) >= FEWEST for doc in self.docs)

    @property
    def fewest_calls(self) -> int:
        """Calls of a run, in each rank, with which noise can be told from a difference."""
        return FEWEST * max(samples.streams(doc) for doc in self.docs)

    @functools.cached_property
    def figures(self) -> dict[str, float]:
        """Mean over the runs of each of METRICS, computed from their samples."""
        each = [samples.figures(doc) for doc in self.docs]
        return {metric: float(np.mean([figures[metric] for figures in each])) for metric in METRICS}

    def value(self, metric: str) -> float:
        """A figure of METRICS."""
        return self.figures[metric]


def load(path: Path) -> Results:
    """The document of a results.json or of a folder that holds one, its samples as arrays and without series.

    Raises:
        UserError: when it cannot be read, is damaged or holds no timed call.
    """
    file = reader.file_of(path)
    doc = reader.read(file)
    if doc["statistics"] is None:
        raise UserError(
            f"{shown(file)}: holds no timed call ({shown(doc['incomplete_reason'] or 'nothing was measured')}); run it again"
        )
    return samples.compact(doc, SAMPLES)


def read(argument: str) -> Side:
    """A side from a folder or results.json, or from several runs of the same, divided by commas.

    Raises:
        UserError: when one of them cannot be read, holds no sample, or repeats differ in what they measure.
    """
    try:
        whole = Path(argument).exists()
        paths = [Path(argument)] if whole else [Path(part) for part in argument.split(",") if part.strip()]
        any(path.is_dir() for path in paths)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{shown(repr(argument), 80)} cannot be a results folder ({reason}); name OUTPUT_DIRs of runs"
        ) from None
    docs = [load(path) for path in paths]
    if not docs:
        raise UserError(f"{shown(repr(argument))} names no results; give the OUTPUT_DIR of a run")
    side = Side(argument.rstrip("/") or "/", docs, tuple(reader.file_of(path).resolve() for path in paths))
    for doc in docs[1:]:
        if wrong := [*different_workload(docs[0], doc), *_changed(docs[0], doc, "settings.")]:
            raise UserError(
                f"{shown(argument)}: its runs are not repeats of one another ({'; '.join(wrong)}); divide by commas only "
                "runs of the same settings"
            )
    return side


def collect(argument: str) -> tuple[list[Side], list[str]]:
    """The sides that an argument names, and what was left out of a folder, a line each.

    A folder without a results.json of its own stands for all results below it: every results.json, and files of another
    name ending in .json that are results.

    Raises:
        UserError: when what is named cannot be read, or a folder holds no result.
    """
    folder = Path(argument)
    try:
        many = folder.is_dir() and not (folder / "results.json").exists()
        files = [path for path in sorted(folder.rglob("*.json")) if path.is_file()] if many else []
    except (OSError, ValueError):
        many = False
    if not many:
        return [read(argument)], []
    sides, left_out = [], []
    for path in files:
        if path.name != "results.json" and not _claims_to_be_results(path):
            continue
        name = path.parent if path.name == "results.json" else path.with_suffix("")
        try:
            sides.append(Side(str(folder.name / name.relative_to(folder)), [load(path)], (path.resolve(),)))
        except UserError as error:
            left_out.append(str(error))
    if not sides:
        why = f" that can be used: {left_out[0]}" if left_out else ""
        raise UserError(f"{shown(argument)}: holds no results.json{why}; name OUTPUT_DIRs of runs or a folder of them")
    return sides, left_out


def _claims_to_be_results(path: Path) -> bool:
    """Whether a file of any name begins as a results.json does."""
    try:
        with path.open("rb") as file:
            return b'"schema_version"' in file.read(400)
    except OSError:
        return True  # reading it whole says what is wrong


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
        "settings": {
            name: kinds.show(value) for name, value in doc["settings"]["requested"].items() if name not in UNIMPORTANT
        },
        "ran": cast(Mapping[str, Value], doc["effective"]),
        "machine": cast(Mapping[str, Value], environment.get("hardware", {})),
        "software": environment.get("versions", {}),
        "variables": environment.get("variables", {}),
        "weights": {name: value for name, value in cast(Mapping[str, Value], doc["weights"]).items() if name != "path"},
        "benchmark": {name: benchmark.get(name) for name in ("version", "git_commit", "git_dirty")},
        "ranks": {"count": rank_count(doc["ranks"], doc["samples"]["rank"])},
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
