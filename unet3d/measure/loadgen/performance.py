"""MLPerf LoadGen as the pace-maker: SCENARIO=SingleStream or Offline, performance mode.

LoadGen (package mlcommons-loadgen) sends the queries and holds the stop-watch, our own clock runs beside it. Its
latency ends, as ours, when the logits are complete. Its logs stay in OUTPUT_DIR/loadgen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unet3d.config.values import Settings
from unet3d.engines.base import Engine
from unet3d.measure import loop
from unet3d.measure.accuracy import fill_batch
from unet3d.measure.loadgen import logs
from unet3d.measure.loadgen.harness import Harness
from unet3d.measure.loadgen.session import LoadGenResult, log_folder, test_settings, version
from unet3d.measure.prepare import Input
from unet3d.planning import mlperf
from unet3d.planning.mlperf import SINGLE_STREAM, LoadGenRun
from unet3d.results.console import Console
from unet3d.results.facts import Figure, RunWarning, Told
from unet3d.results.record import Section
from unet3d.results.timing import Sample

AGREEMENT = 0.02  # largest relative difference between LoadGen's latency and ours that is not worth a warning


def measure(
    plan: LoadGenRun,
    settings: Settings,
    engine: Engine,
    given: Input,
    expected_s: float,
    keep: Callable[[Sample], None],
    out: Console,
    look: loop.Look | None = None,
) -> Path:
    """LoadGen's performance mode, our own times of each call given to `keep`; returns the folder of LoadGen's logs.

    look: is shown the output of each call when LoadGen's clock has stopped for it.

    expected_s: seconds of one call.

    Raises:
        UserError: when LoadGen's logs cannot be written, and whatever the engine raises.
    """
    folder = log_folder(settings.output_dir, "performance")
    names = given.cases.names if given.cases else ()
    about = max(plan.duration_s, plan.calls(settings.batch_size) * expected_s / settings.streams)
    out.info(
        f"LoadGen, {plan.scenario}, performance: at least {plan.queries} volumes and {plan.duration_s} s, about "
        f"{about:.0f} s; logs in {folder}"
    )

    def done(sample: Sample, indices: Sequence[int]) -> None:
        sample.cases = tuple(names[index] for index in indices) if names else ()
        keep(sample)

    def load(index: int) -> np.ndarray:
        return given.volumes.batch(index)[0] if given.cases is None else given.cases.store.load(names[index]).array

    def shown(indices: Sequence[int], labels: Callable[[], np.ndarray]) -> None:
        if look is not None:
            cases = tuple(names[index] for index in indices) if names else ()
            look(lambda: fill_batch([load(index) for index in indices], settings.batch_size), cases, labels)

    harness = Harness(engine, load, settings.batch_size, settings.streams, done, look=shown)
    chosen = test_settings(plan, "PerformanceOnly", expected_s, settings)
    harness.run(chosen, max(1, len(names)), plan.performance_samples, folder)
    return folder


def read_log(plan: LoadGenRun, folder: Path, samples: Sequence[Sample], out: Console) -> LoadGenResult:
    """LoadGen's figures beside our own, and whether the run would have been valid for submission.

    Raises:
        UserError: when the log is missing or cut off.
    """
    log = logs.details(folder)
    rows: list[Figure] = []
    warnings: list[RunWarning] = []
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
        figures["own_latency_ms"] = own = own_latency(samples)
        figures["difference"] = {name: own[name] / figures["latency_ms"][name] - 1 for name in own}
        worst = max(figures["difference"].values(), key=abs)
        out.info(
            f"LoadGen: p90 {figures['latency_ms']['p90']:.2f} ms, mean {figures['latency_ms']['mean']:.2f} ms; our "
            f"clock differs by {figures['difference']['p90']:+.2%} and {figures['difference']['mean']:+.2%}"
        )
        if abs(worst) > AGREEMENT:
            warnings.append(
                RunWarning(
                    "loadgen-differs",
                    f"LoadGen's latency and ours differ by {worst:+.1%}.",
                    "Stop other work and run again; very short inferences show LoadGen's own cost.",
                )
            )
        rows += [
            ("loadgen_latency_p90", figures["latency_ms"]["p90"], "ms"),
            ("loadgen_latency_mean", figures["latency_ms"]["mean"], "ms"),
        ]
    else:
        out.info(f"LoadGen: {figures['samples_per_second']:.4g} samples/s")
        rows.append(("loadgen_samples_per_second", figures["samples_per_second"], "img/s"))
    section: Section = {
        "version": version(),
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
        warnings.append(
            RunWarning(
                "not-valid-for-submission",
                f"{plan.scenario}: {'; '.join(departures)}.",
                "For MLPerf v1.1's settings leave out NUM_ITERATIONS and MIN_DURATION, and use its data and weights.",
            )
        )
    return LoadGenResult(section, Told(rows, warnings))


def own_latency(samples: Sequence[Sample]) -> dict[str, float]:
    """Mean and 90th percentile in ms of our own latencies, the percentile by LoadGen's rule.

    Of n sorted values LoadGen takes the one with index floor(0.9 n), counted from zero; where 0.9 n is whole that is
    one rank above the nearest-rank rule.
    """
    ordered = sorted(sample.latency for sample in samples)
    return {"mean": 1e3 * float(np.mean(ordered)), "p90": 1e3 * ordered[int(len(ordered) * mlperf.PERCENTILE)]}
