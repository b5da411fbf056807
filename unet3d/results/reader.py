"""results.json read back: every reader of one comes through here, and what it gets is whole and belongs together.

It is validated once, against results.schema.json. Documents of schema_version 1 are turned into those of 2.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from unet3d import json_files
from unet3d.brats import regions
from unet3d.brats.weights import MLPERF_SHA256
from unet3d.errors import UserError, shown
from unet3d.network.plans import random_plans
from unet3d.results import json_schema, private, validation, version1
from unet3d.results.schema import Accuracy, Results, Telemetry, Weights, dice_of
from unet3d.results.timing import Sample, percentile, summarise
from unet3d.workload import MODALITIES, SHAPE

FILE = "results.json"
SCHEMA_VERSION = 2
# Eight samples of a call take about 200 bytes: room for two million calls.
LARGEST_FILE = 2**29
# By which a figure may differ from what the samples give: they are milliseconds of what was summed up in seconds.
AGREEMENT = 1e-6
COLUMNS = ("start_s", "latency_ms", "stage_ms", "post_ms", "volumes", "stream", "rank", "cases")
HIDDEN = "hidden_ms"  # only of runs whose calls overlap
_WHAT = "results.json of a run"


def read(path: Path) -> Results:
    """The document of a results.json, as schema_version 2.

    Raises:
        UserError: in one line, when it is absent, no regular file, larger than LARGEST_FILE, not JSON, not of this
            benchmark, not as the schema says, or its parts do not belong together.
    """
    doc = json_files.read(path, LARGEST_FILE, _WHAT)
    version = doc.get("schema_version") if isinstance(doc, dict) else None
    if not isinstance(doc, dict) or isinstance(version, bool) or version not in (1, SCHEMA_VERSION):
        raise UserError(
            f"{shown(path)}: is not a results.json of this benchmark (schema_version is {shown(version, 20)}, 1 or "
            f"{SCHEMA_VERSION} is expected); name the OUTPUT_DIR of a run"
        )
    if version == 1:
        doc = version1.converted(doc)
    try:
        validation.validate(doc, _schema())
    except validation.Fault as fault:
        raise UserError(f"{shown(path)}: is damaged, it is not as this benchmark writes it: {fault}; run it again") from None
    results = cast(Results, doc)
    if version == 1:
        results = _with_figures_of_version_2(cast(Results, private.without_homes_in(doc)))
    if wrong := contradiction(results):
        raise UserError(f"{shown(path)}: is damaged, its parts do not belong together: {wrong}; run it again")
    return results


def _with_figures_of_version_2(doc: Results) -> Results:
    """A document of version 1 whose throughputs are of the window that version 2 has where several calls are in flight."""
    stats, lists = doc["statistics"], cast(Mapping[str, Sequence[Any]], doc["samples"])
    if stats is None or doc["settings"]["requested"]["streams"] == 1 or len({len(lists[name]) for name in COLUMNS}) > 1:
        return doc
    if not lists["latency_ms"]:
        return doc
    figures = figures_of_samples(doc)
    again = {name: figures[name] for name in ("throughput", "throughput_with_overhead", "tflops") if name in figures}
    return cast(Results, {**doc, "statistics": {**stats, **again}})


def file_of(named: Path) -> Path:
    """The results.json that a user names, by its own path or that of its folder; `read` tells what is wrong with it."""
    try:
        return named / FILE if named.is_dir() else named
    except OSError:  # names that no file can have
        return named


@functools.cache
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(json_schema.FILE.read_text(encoding="utf-8"))
    return schema


def contradiction(doc: Results) -> str | None:
    """In what a valid document contradicts itself, None where it does not: a figure that its samples do not give, lists of
    different length, cases without a mean."""
    samples, stats = cast(Mapping[str, Sequence[Any]], doc["samples"]), doc["statistics"]
    calls = len(samples["latency_ms"])
    if uneven := [name for name in (*COLUMNS, HIDDEN) if name in samples and len(samples[name]) != calls]:
        return f"samples has {calls} latency_ms and {len(samples[uneven[0]])} {uneven[0]}"
    if (stats is None) != (calls == 0):
        return f"there are {calls} samples and {'no' if stats is None else ''} statistics".replace("  ", " ")
    if doc["complete"] and (wrong := _not_complete(doc)):
        return wrong
    if stats is not None and (wrong := _not_of_samples(doc)):
        return wrong
    if wrong := _not_as_measured(doc) or _not_one_at_a_time(doc):
        return wrong
    if doc["accuracy"] and (wrong := _not_of_cases(doc["accuracy"])):
        return wrong
    if doc["volume"]["standard"] != (tuple(doc["volume"]["shape"]) == (len(MODALITIES), *SHAPE)):
        return f"volume.standard is {doc['volume']['standard']} of a volume of {doc['volume']['shape']}"
    telemetry = doc.get("telemetry")
    return None if telemetry is None else _not_of_readings(telemetry)


def _not_complete(doc: Results) -> str | None:
    """What a document lacks that says it is complete."""
    if doc["incomplete_reason"] is not None:
        return "it is complete and has an incomplete_reason"
    sections = ["effective", "weights", "data", "warm_up", "memory", "statistics"]
    sections += ["accuracy"] if doc["mode"] == "accuracy" else []
    lacking = [name for name in sections if not cast(Mapping[str, object], doc)[name]]
    if lacking:
        return f"it is complete and has no {lacking[0]}"
    calls, asked = len(doc["samples"]["latency_ms"]), doc["settings"]["requested"]["num_iterations"]
    # LoadGen decides by itself how many calls there are.
    if doc["planned_calls"] not in (0, calls) or (doc["scenario"] == "loop" and calls < asked):
        return f"it is complete with {calls} calls of {max(asked, doc['planned_calls'])}"
    if doc["finished"] is None or doc["finished"] < doc["started"]:
        return f"it is complete, began {shown(doc['started'], 40)} and finished {shown(doc['finished'], 40)}"
    for check in (doc["check"], doc.get("full_size_check")):
        if check and not (check["finite"] and check["relative_error"] <= check["limit"]):
            error, limit = check["relative_error"], check["limit"]
            return f"it is complete, and its check against fp32 has an error of {error:g}, {limit:g} is allowed"
    ranks = max(1, len(doc["ranks"]))
    if doc["ranks"] and sorted(rank["rank"] for rank in doc["ranks"]) != list(range(ranks)):
        return f"its {ranks} ranks are not numbered from 0 to {ranks - 1}"
    if max(doc["samples"]["rank"]) >= ranks:
        return f"samples are of rank {max(doc['samples']['rank'])}, ranks has {len(doc['ranks'])}"
    return None


def _not_as_measured(doc: Results) -> str | None:
    """The first label that its own settings, samples or weights contradict: what a run says it measured with."""
    asked, samples, weights = doc["settings"]["requested"], doc["samples"], doc["weights"]
    if (largest := max(samples["volumes"], default=0)) > asked["batch_size"]:
        return f"there are calls of {largest} volumes with batch_size {asked['batch_size']}"
    if (stream := max(samples["stream"], default=0)) >= asked["streams"]:
        return f"samples are of stream {stream}, there are {asked['streams']} streams"
    if weights and (weights["kind"] == "random") != (weights["sha256"] is None):
        return f"weights of the kind {shown(weights['kind'], 40)} have the SHA-256 {shown(weights['sha256'], 70)}"
    if weights and weights["kind"] == "mlperf" and not _may_be_mlperf(weights):
        return f"weights.kind is mlperf, and they have {weights['base_features']} features and another SHA-256 than MLPerf's"
    return None


def _may_be_mlperf(weights: Weights) -> bool:
    features = random_plans()["base_num_features"]
    return weights["base_features"] == features and MLPERF_SHA256 in (None, weights["sha256"])


def _not_of_readings(telemetry: Telemetry) -> str | None:
    """The first figure of the telemetry that its readings cannot give."""
    series, energy = telemetry["series"], telemetry["energy"]
    readings = len(series["time_s"])
    for name, values in series.items():
        if len(values) != readings:
            return f"telemetry.series has {readings} time_s and {len(values)} {shown(name, 60)}"
    for name, spread in telemetry["summary"].items():
        # The summary is of the readings within the measured window.
        known = [value for value in series.get(name, ()) if value is not None]
        least, most = min(known, default=spread["min"]), max(known, default=spread["max"])
        allowed = AGREEMENT * max(abs(least), abs(most))
        if (
            not least - allowed
            <= spread["min"]
            <= spread["mean"] + allowed
            <= spread["max"] + 2 * allowed
            <= most + 3 * allowed
        ):
            told = f"{spread['min']:g} to {spread['max']:g}"
            return f"telemetry.summary.{shown(name, 60)} is {told}, its readings are {least:g} to {most:g}"
    if energy is None or not energy["volumes"]:
        return None
    for name, joules in energy["joules"].items():
        per_volume, value = energy["joules_per_volume"].get(name), joules / energy["volumes"]
        if per_volume is None or joules < 0 or abs(per_volume - value) > AGREEMENT * value:
            of = f"{joules:g} J of {energy['volumes']} volumes"
            return f"telemetry.energy.joules_per_volume.{shown(name, 60)} is {per_volume}, {of} give {value:g}"
    return None


def _not_of_cases(accuracy: Accuracy) -> str | None:
    """The first mean of Dice that does not follow from the cases."""
    summary = regions.summarise(list(accuracy["cases"].values()))
    for region, value in {**summary.means, "total": summary.total}.items():
        told = dice_of(accuracy, region)
        if (told is None) != (value is None) or (told is not None and value is not None and abs(told - value) > AGREEMENT):
            return f"accuracy.{region} is {told}, its cases give {value}"
    return None


def _not_of_samples(doc: Results) -> str | None:
    """The first figure of `statistics` that does not follow from the samples."""
    told, expected = cast(Mapping[str, float], doc["statistics"]), figures_of_samples(doc)
    for name, value in expected.items():
        # Deviations are differences of latencies and as exact as these.
        size = expected["mean"] if name == "stdev" else 1.0 if name == "cv" else abs(value)
        if not (math.isfinite(value) and abs(told[name] - value) <= AGREEMENT * size):
            return f"statistics.{name} is {told[name]:.9g}, its samples give {value:.9g}"
    return None


def _not_one_at_a_time(doc: Results) -> str | None:
    """Where the latency of calls alone is not the median of these."""
    told = [figure["value"] for figure in doc["figures"] if figure["key"] == "latency_one_at_a_time"]
    latencies = doc.get("one_at_a_time", {"latency_ms": []})["latency_ms"]
    expected = [percentile(latencies, 50)] if latencies else []
    pairs = zip(told, expected, strict=False)
    if len(told) == len(expected) and all(isinstance(a, float) and abs(a - b) <= AGREEMENT * b for a, b in pairs):
        return None
    return f"figures has latency_one_at_a_time {told}, one_at_a_time gives {expected}"


def figures_of_samples(doc: Results) -> dict[str, float]:
    """What `statistics` has to be by the samples of a document that has some."""
    columns = doc["samples"]
    samples = [
        Sample(start, latency / 1e3, stage / 1e3, post / 1e3, volumes, stream, rank, hidden=hidden / 1e3)
        for start, latency, stage, post, hidden, volumes, stream, rank in zip(
            columns["start_s"],
            columns["latency_ms"],
            columns["stage_ms"],
            columns["post_ms"],
            columns.get("hidden_ms", [0.0] * len(columns["post_ms"])),
            columns["volumes"],
            columns["stream"],
            columns["rank"],
            strict=True,
        )
    ]
    try:
        figures: dict[str, float] = asdict(summarise(samples, doc["settings"]["requested"]["streams"]))
    except ZeroDivisionError:  # starts so large that latencies are lost in them
        figures = {"throughput": math.inf}
    return {**figures, "tflops": figures["throughput"] * doc["volume"]["tflop"]}
