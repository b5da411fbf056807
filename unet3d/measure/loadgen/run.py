"""MLPerf LoadGen as the pace-maker: SCENARIO=SingleStream or Offline, performance and accuracy mode.

LoadGen (package mlcommons-loadgen) sends the queries and holds the stop-watch, our own clock runs beside it. Its
latency ends, as ours, when the logits are complete. Its logs stay in OUTPUT_DIR/loadgen.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d.errors import UserError
from unet3d.files import move_aside, prepare_folder
from unet3d.measure.telemetry import watch
from unet3d.planning import mlperf
from unet3d.planning.mlperf import SINGLE_STREAM
from unet3d.ranks import Solo

if TYPE_CHECKING:
    from unet3d.engines.base import Engine
    from unet3d.measure.accuracy import Cases
    from unet3d.results.console import Console
    from unet3d.results.record import Record
    from unet3d.results.timing import Sample

FOLDER = "loadgen"
AGREEMENT = 0.02  # largest relative difference between LoadGen's latency and ours that is not worth a warning
DICE_AGREEMENT = 1e-4


def run(record: Record, out: Console, engine: Engine, source: Any, cases: Cases | None) -> None:
    """With cases LoadGen's accuracy mode, then its performance mode. Raises UserError as these do."""
    record.extra["scenario"] = record.settings.scenario
    if cases is not None:
        record.accuracy = accuracy(record, out, engine, cases)
    performance(record, out, engine, source, cases)


def performance(record: Record, out: Console, engine: Engine, source: Any, cases: Cases | None) -> None:
    """LoadGen's performance mode: fills in the record's samples, with our own times, and LoadGen's figures.

    Raises:
        UserError: when LoadGen's logs cannot be written, and whatever the engine raises.
    """
    from unet3d.devices import host
    from unet3d.measure.loadgen.harness import Harness
    from unet3d.results import console, document, timing

    settings = record.settings
    folder = _folder(record, "performance")
    names = () if cases is None else cases.names
    plan = mlperf.plan(settings, max(1, len(names)), record.weights.get("kind"), record.data)
    expected_s = record.warm_up["latency_ms"][-1] / 1e3 if record.warm_up["latency_ms"] else 1.0
    record.planned_calls = -(-plan.queries // settings.batch_size)
    about = max(plan.duration_s, record.planned_calls * expected_s / settings.streams)
    out.info(
        f"LoadGen, {plan.scenario}, performance: at least {plan.queries} volumes and {plan.duration_s} s, about "
        f"{about:.0f} s; logs in {folder}"
    )
    step = max(1, round(record.planned_calls / settings.status_prints))
    lock = threading.Lock()

    def done(sample: Sample, indices: list[int]) -> None:
        sample.cases = tuple(names[index] for index in indices) if names else ()
        with lock:
            record.samples.append(sample)
            count = len(record.samples)
            if count % step == 0 or count == record.planned_calls:
                stats = timing.summarise(record.samples, settings.streams)
                out.info(console.status(count, max(count, record.planned_calls), stats, record.accuracy))
                if settings.streams == 1:
                    document.write(record, settings.output_dir)

    def load(index: int) -> np.ndarray:
        return source.batch(index)[0] if cases is None else cases.store.load(names[index]).array

    harness = Harness(engine, load, settings.batch_size, settings.streams, done)
    with watch.watching(record, out, Solo()):
        harness.run(
            _test_settings(plan, "PerformanceOnly", expected_s, settings), max(1, len(names)), plan.performance_samples, folder
        )
    record.samples.sort(key=lambda sample: sample.start)
    record.planned_calls = len(record.samples)
    record.memory = {
        "peak_host_bytes": host.peak_memory(),
        "peak_device_bytes": None if settings.platform == "CPU" else settings.device.peak_memory(),
    }
    _note_performance(record, out, plan, folder)


def _note_performance(record: Record, out: Console, plan: mlperf.Plan, folder: Path) -> None:
    from unet3d.measure.loadgen import logs

    log = logs.details(folder)
    figures: dict[str, Any] = {
        "scenario": plan.scenario,
        "verdict": log.get("result_validity"),
        "queries": log.get("result_query_count"),
        "latency_ms": {
            name: log[f"result_{key}_latency_ns"] / 1e6
            for name, key in (
                ("mean", "mean"),
                ("min", "min"),
                ("max", "max"),
                ("p50", "50.00_percentile"),
                ("p90", "90.00_percentile"),
                ("p99", "99.00_percentile"),
            )
        },
        "samples_per_second": log.get("result_samples_per_second", log.get("result_qps_with_loadgen_overhead")),
        "early_stopping": log.get("early_stopping_result"),
        "problems": log["problems"],
    }
    departures = list(plan.departures)
    if log.get("result_validity") != "VALID":
        departures.append(
            "LoadGen's verdict is INVALID"
            + (f" (fewer than {mlperf.LEAST_FOR_VERDICT} queries)" if plan.queries < mlperf.LEAST_FOR_VERDICT else "")
        )
    if plan.scenario == SINGLE_STREAM:
        figures["own_latency_ms"] = own = own_latency(record.samples)
        figures["difference"] = {name: own[name] / figures["latency_ms"][name] - 1 for name in own}
        worst = max(figures["difference"].values(), key=abs)
        out.info(
            f"LoadGen: p90 {figures['latency_ms']['p90']:.2f} ms, mean {figures['latency_ms']['mean']:.2f} ms; our "
            f"clock differs by {figures['difference']['p90']:+.2%} and {figures['difference']['mean']:+.2%}"
        )
        if abs(worst) > AGREEMENT:
            record.warn(
                "loadgen-differs",
                f"LoadGen's latency and ours differ by {worst:+.1%}.",
                "Stop other work and run again; very short inferences show LoadGen's own cost.",
            )
        record.figures += [
            ("loadgen_latency_p90", figures["latency_ms"]["p90"], "ms"),
            ("loadgen_latency_mean", figures["latency_ms"]["mean"], "ms"),
        ]
    else:
        out.info(f"LoadGen: {figures['samples_per_second']:.4g} samples/s")
        record.figures.append(("loadgen_samples_per_second", figures["samples_per_second"], "img/s"))
    section = record.extra.setdefault(FOLDER, {})
    section |= {
        "version": importlib.metadata.version("mlcommons-loadgen"),
        "rules": "MLPerf Inference v1.1",
        "settings": {
            "min_queries": plan.queries,
            "min_duration_s": plan.duration_s,
            "performance_samples": plan.performance_samples,
            "percentile": mlperf.PERCENTILE,
            **mlperf.SEEDS,
        },
        "valid_for_submission": not departures,
        "why_not": departures,
        "performance": figures,
    }
    if departures:
        record.warn(
            "not-valid-for-submission",
            f"{plan.scenario}: {'; '.join(departures)}.",
            "For MLPerf v1.1's settings leave out NUM_ITERATIONS and MIN_DURATION, and use its data and weights.",
        )


def own_latency(samples: list[Sample]) -> dict[str, float]:
    """Mean and 90th percentile in ms of our own latencies, the percentile by LoadGen's rule.

    Of n sorted values LoadGen takes the one with index floor(0.9 n), counted from zero; where 0.9 n is whole that is
    one rank above the nearest-rank rule.
    """
    ordered = sorted(sample.latency for sample in samples)
    return {"mean": 1e3 * float(np.mean(ordered)), "p90": 1e3 * ordered[int(len(ordered) * mlperf.PERCENTILE)]}


def accuracy(record: Record, out: Console, engine: Engine, cases: Cases) -> dict[str, Any]:
    """LoadGen's accuracy mode: each case once; our own Dice and, of the same predictions, MLPerf's from LoadGen's log.

    Returns what `unet3d.measure.accuracy.predict_and_score` returns.

    Raises:
        UserError: when the log, of 128 MiB a case, cannot be written whole.
    """
    from unet3d.measure.accuracy import keep_slices, score_case, summarise
    from unet3d.measure.loadgen import logs
    from unet3d.measure.loadgen.harness import Harness

    settings = record.settings
    folder = _folder(record, "accuracy")
    _need_disk(folder, len(cases.names), cases.store.padded_shape)
    plan = mlperf.plan(settings, len(cases.names), record.weights.get("kind"), record.data)
    out.info(f"LoadGen, {plan.scenario}, accuracy: {len(cases.names)} cases; log in {folder}")
    saved = settings.output_dir / "segmentations" if settings.save_segmentations else None
    if saved is not None:
        prepare_folder(saved, "OUTPUT_DIR")
    scores: dict[str, dict[str, float | None]] = {}
    kept: dict[str, Any] = {}

    def answer(indices: list[int], output: Any) -> list[np.ndarray]:
        for index, labels in zip(indices, engine.labels(output), strict=False):
            name = cases.names[index]
            scores[name] = score_case(cases.by_name[name], cases.store.load(name).properties, labels, saved, kept)
        # The format of MLPerf's reference, whose own script can read the log too.
        return [np.ascontiguousarray(one, np.float16) for one in engine.logits(output)[: len(indices)]]

    harness = Harness(
        engine,
        lambda index: cases.store.load(cases.names[index]).array,
        settings.batch_size,
        settings.streams,
        lambda sample, indices: None,
        answer,
    )
    harness.run(_test_settings(plan, "AccuracyOnly", 1.0, settings), len(cases.names), plan.performance_samples, folder)
    keep_slices(record, cases, scores, kept)
    found = summarise({name: scores[name] for name in cases.names}, record, out)
    _note_accuracy(record, out, found, logs.mlperf_dice(folder, cases))
    return found


def _note_accuracy(record: Record, out: Console, ours: dict[str, Any], mlperf: dict[str, dict[str, float | None]]) -> None:
    """MLPerf's means (nnU-Net's nanmean of each region, then the mean of the three) beside ours."""
    from unet3d.brats import regions

    summary = regions.summarise(list(mlperf.values()))
    theirs = {**summary.means, "total": summary.total}
    difference = {
        region: None if value is None or ours[region] is None else ours[region] - value for region, value in theirs.items()
    }
    record.extra.setdefault(FOLDER, {})["accuracy"] = {**theirs, "cases": mlperf, "own_minus_loadgen": difference}
    shown = ", ".join(f"{region} undefined" if value is None else f"{region} {value:.4f}" for region, value in theirs.items())
    out.info(f"LoadGen's accuracy log, scored as MLPerf does: {shown}")
    record.figures += [
        (f"loadgen_accuracy_{region.lower()}", None if value is None else 100 * value, "percents")
        for region, value in theirs.items()
    ]
    worst = max((abs(value) for value in difference.values() if value is not None), default=0.0)
    if worst > DICE_AGREEMENT or any((ours[region] is None) != (theirs[region] is None) for region in theirs):
        record.warn(
            "loadgen-dice-differs",
            f"Dice from LoadGen's log differs from ours by up to {worst:.2g}, or one of them is undefined.",
            "Please report this with results.json.",
        )


def _folder(record: Record, mode: str) -> Path:
    """OUTPUT_DIR/loadgen/<mode>, empty; logs of an earlier run are renamed with their results."""
    folder = record.settings.output_dir / FOLDER / mode
    try:
        move_aside(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be renamed ({error.strerror}); name another folder with OUTPUT_DIR") from None
    prepare_folder(folder, "OUTPUT_DIR")
    return folder


def _need_disk(folder: Path, cases: int, shape: tuple[int, ...]) -> None:
    # Two hexadecimal digits for each byte of float16 logits of 4 classes.
    needed = cases * 2 * 2 * 4 * int(np.prod(shape))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: LoadGen's accuracy log of {cases} cases needs {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; free some space, name another folder with OUTPUT_DIR, or lower "
            "NUM_IMAGES"
        )


def _test_settings(plan: mlperf.Plan, mode: str, expected_s: float, settings: Any) -> Any:
    import mlperf_loadgen as lg

    chosen = lg.TestSettings()
    chosen.scenario = getattr(lg.TestScenario, plan.scenario)
    chosen.mode = getattr(lg.TestMode, mode)
    chosen.min_query_count = plan.queries
    chosen.min_duration_ms = 1000 * plan.duration_s
    if plan.limited and plan.scenario == SINGLE_STREAM:
        chosen.max_query_count = plan.queries
    chosen.single_stream_target_latency_percentile = mlperf.PERCENTILE
    chosen.single_stream_expected_latency_ns = int(1e9 * expected_s)
    # LoadGen sends 1.1 times what this rate yields in the least duration, so the least duration is reached.
    chosen.offline_expected_qps = settings.batch_size * settings.streams / expected_s
    chosen.performance_sample_count_override = plan.performance_samples
    for name, seed in mlperf.SEEDS.items():
        setattr(chosen, name, seed)
    return chosen
