"""results.json and results.yaml: written whole or not at all, valid at any moment of a run."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import yaml

from unet3d import json_files
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Settings
from unet3d.files import write_atomically
from unet3d.results.private import without_homes
from unet3d.results.reader import SCHEMA_VERSION
from unet3d.results.record import Record
from unet3d.results.schema import rank_count
from unet3d.results.timing import Sample, Statistics, summarise
from unet3d.version import __version__
from unet3d.workload import MODALITIES, SHAPE

Document = dict[str, Any]  # results.json, or a part of it
# All that a run, or the verb segment, may write into its folder; the first that is there gives the time that earlier ones
# are renamed after.
FILES = (
    "results.json",
    "results.yaml",
    "output_raw.log",
    "report.html",
    "slices.npz",
    "profile.json",
    "traceback.log",
    "segmentations",
    "segment.json",
    "loadgen",
)
REGION_KEYS = (("WT", "accuracy_whole_tumor"), ("TC", "accuracy_tumor_core"), ("ET", "accuracy_enhancing_tumor"))
_WRITING = threading.Lock()
MLPERF_FOLD1 = {"total": 0.85300, "WT": 0.9141, "TC": 0.8679, "ET": 0.7770}


def statistics(record: Record) -> Statistics | None:
    """Statistics of the samples so far, None before the first."""
    return summarise(record.samples, record.settings.streams) if record.samples else None


def requested(settings: Settings) -> Document:
    """`settings.requested` of results.json: each setting's value."""
    values: Document = plain(settings.values())
    return values


def document(record: Record) -> Document:
    """Everything about the run, as `results.json` holds it, see `unet3d.results.schema`."""
    settings = record.settings
    # Another thread may add to them meanwhile: figures and samples are of the same ones.
    samples = list(record.samples)
    stats = summarise(samples, settings.streams) if samples else None
    doc: Document = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "complete": record.complete,
            "incomplete_reason": record.incomplete_reason,
            "benchmark": {
                "name": "unet3d",
                "version": __version__,
                "command": record.command,
                "git_commit": record.environment.get("git_commit"),
                "git_dirty": record.environment.get("git_dirty"),
            },
            "mode": "performance" if settings.dummy else "accuracy",
            "scenario": "loop" if settings.scenario == BY_NAME["scenario"].default else settings.scenario,
            "started": record.started.isoformat(),
            "finished": record.finished and record.finished.isoformat(),
            "settings": {
                "requested": requested(settings),
                "source": settings.sources,
                "reasons": settings.reasons,
            },
            "effective": _fields(record.effective),
            "volume": {
                "shape": [len(MODALITIES), *settings.volume_shape],
                "standard": settings.volume_shape == SHAPE,
                "tflop": record.tflop_per_volume,
            },
            "weights": _fields(record.weights),
            "data": {name: value for name, value in _fields(record.data).items() if value is not None},
            "check": _fields(record.check) or None,
            "load_seconds": record.load_seconds,
            "warm_up": _fields(record.warm_up),
            "planned_calls": record.planned_calls,
            "samples": _samples(samples),
            "statistics": stats and {**asdict(stats), "tflops": stats.throughput * record.tflop_per_volume},
            "accuracy": _accuracy(record),
            "memory": _fields(record.memory),
            "environment": record.environment,
            "ranks": record.ranks,
            "figures": [{"key": key, "value": value, "unit": unit} for key, value, unit in record.figures],
            **_sections(record),
            "warnings": [asdict(warning) for warning in record.warnings],
        }
    )
    return doc


def _fields(facts: object | None) -> Document:
    """A dataclass's fields, or nothing where the run has not come to it."""
    return {} if facts is None else {field.name: getattr(facts, field.name) for field in fields(cast(Any, facts))}


def _samples(samples: Sequence[Sample]) -> Document:
    return {
        "start_s": [sample.start for sample in samples],
        "latency_ms": [1e3 * sample.latency for sample in samples],
        "stage_ms": [1e3 * sample.stage for sample in samples],
        "post_ms": [1e3 * sample.post for sample in samples],
        **({"hidden_ms": [1e3 * sample.hidden for sample in samples]} if any(sample.hidden for sample in samples) else {}),
        "volumes": [sample.volumes for sample in samples],
        "stream": [sample.stream for sample in samples],
        "rank": [sample.rank for sample in samples],
        "cases": [list(sample.cases) for sample in samples],
    }


def _sections(record: Record) -> Document:
    """Parts that only some runs have."""
    parts: Document = {
        "full_size_check": record.full_size_check and asdict(record.full_size_check),
        "one_at_a_time": {"latency_ms": record.one_at_a_time_ms} if record.one_at_a_time_ms else None,
        "placement": record.placement and asdict(record.placement),
        "pool": record.pool,
        "loadgen": record.loadgen,
        "compliance": record.compliance,
        "telemetry": record.telemetry,
        "disturbance": record.disturbance and asdict(record.disturbance),
        "profile": record.profile,
        "ceilings": record.ceilings and {**asdict(record.ceilings), "executed_tflop": record.executed_tflop},
    }
    return {name: part for name, part in parts.items() if part is not None}


def _accuracy(record: Record) -> Document | None:
    dice = record.accuracy
    if dice is None:
        return None
    kind = record.weights.kind if record.weights else None
    told: Document = {**dice.means, "total": dice.total, "undefined": dice.undefined, "cases": dice.cases}
    if dice.fp32:
        told["fp32"] = {**dice.fp32.means, "total": dice.fp32.total, "cases": dice.fp32.cases}
        told["relative_loss_from_fp32"] = dice.fp32.relative_loss
    told["weights"] = kind
    if kind in ("mlperf", "mlperf-unverified") and record.data and record.data.fold == 1 and record.data.standard_names:
        told["mlperf_reference"] = MLPERF_FOLD1
        told["difference_from_mlperf"] = {
            region: None if (ours := dice.of(region)) is None else ours - reference
            for region, reference in MLPERF_FOLD1.items()
        }
    return told


def entries(doc: Mapping[str, Any]) -> list[Document]:
    """The list of `results.yaml`: first the three entries of the archived sample, then the others in their form."""
    stats, accuracy, memory = doc["statistics"] or {}, doc["accuracy"] or {}, doc["memory"]

    def percents(region: str) -> float | None:
        value = accuracy.get(region)
        return None if value is None else 100 * value

    rows: list[tuple[str, Any, str]] = [
        ("throughput", stats.get("throughput"), "img/s"),
        ("latency", stats.get("mean"), "ms"),
        ("accuracy", percents("total"), "percents"),
    ]
    rows += [(key, percents(region), "percents") for region, key in REGION_KEYS]
    if "difference_from_mlperf" in accuracy:
        difference = accuracy["difference_from_mlperf"]["total"]
        rows.append(("accuracy_minus_mlperf_reference", None if difference is None else 100 * difference, "percents"))
    rows += [(f"latency_{name}", stats.get(name), "ms") for name in ("p50", "p90", "p99", "min", "max", "stdev")]
    rows += [
        ("throughput_with_overhead", stats.get("throughput_with_overhead"), "img/s"),
        ("latency_with_overhead", stats.get("latency_with_overhead"), "ms"),
        ("compile_time", sum(doc["load_seconds"].values()) if doc["load_seconds"] else None, "s"),
        ("peak_memory_host", _mebibytes(memory.get("peak_host_bytes")), "MiB"),
        ("peak_memory_device", _mebibytes(memory.get("peak_device_bytes")), "MiB"),
        ("compute_rate", stats.get("tflops"), "TFLOP/s"),
    ]
    return [{"key": key, "value": value, "unit": unit} for key, value, unit in rows] + list(doc["figures"])


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / 2**20


def labels(doc: Mapping[str, Any]) -> Document:
    """What the numbers of `results.yaml` are of."""
    effective, chosen = doc["effective"], doc["settings"]["requested"]
    return {
        "complete": doc["complete"],
        "incomplete_reason": doc["incomplete_reason"],
        "mode": doc["mode"],
        "scenario": doc["scenario"],
        "platform": chosen["platform"],
        **{name: effective.get(name) for name in ("device", "engine", "precision", "jit", "network", "layout", "ipex")},
        "batch_size": chosen["batch_size"],
        "streams": chosen["streams"],
        "ranks": rank_count(doc["ranks"], doc["samples"]["rank"]),
        "calls": len(doc["samples"]["latency_ms"]),
        "volume": doc["volume"]["shape"],
        "weights": doc["weights"].get("kind"),
        "data": doc["data"].get("kind"),
        **({"valid_for_submission": doc["loadgen"].get("valid_for_submission")} if "loadgen" in doc else {}),
        **({"compliance": doc["compliance"]["passed"]} if "compliance" in doc else {}),
        "warnings": [warning["name"] for warning in doc["warnings"]],
    }


def to_yaml(doc: Mapping[str, Any]) -> str:
    """`results.yaml`: `results`, the sample's list, and `run`, its labels."""
    results = yaml.safe_dump({"results": entries(doc)}, sort_keys=False, allow_unicode=True)
    return results + yaml.safe_dump({"run": labels(doc)}, sort_keys=False, allow_unicode=True)


def write(record: Record, folder: Path) -> Document:
    """Write both files and return the document.

    Raises:
        UserError: when the folder cannot be written to.
    """
    # The thread that measures writes what there is so far; it must not put that over what a signal has closed meanwhile.
    with _WRITING:
        doc = document(record)
        json_files.write(folder / "results.json", doc)
        write_atomically(folder / "results.yaml", to_yaml(doc))
    return doc


def plain(value: Any) -> Any:
    """Only what JSON and YAML have: no numpy scalars, tuples, paths, NaN or infinity (those become null).

    Text tells of no home folder, see `unet3d.results.private`.
    """
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return without_homes(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return without_homes(str(value))
