"""LoadGen's accuracy mode: each case once; our own Dice and, of the same predictions, MLPerf's from LoadGen's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unet3d.brats import regions
from unet3d.config.values import Settings
from unet3d.engines.base import Engine
from unet3d.measure.accuracy import Cases, Predictions, segmentation_folder
from unet3d.measure.loadgen import logs
from unet3d.measure.loadgen.harness import Harness
from unet3d.measure.loadgen.session import LoadGenResult, log_folder, need_disk, test_settings
from unet3d.planning.mlperf import LoadGenRun
from unet3d.results.console import Console
from unet3d.results.facts import Dice, RunWarning, Scores, Told

DICE_AGREEMENT = 1e-4
EXPECTED_S = 1.0  # LoadGen paces nothing in this mode


def predict(
    plan: LoadGenRun, settings: Settings, engine: Engine, cases: Cases, out: Console
) -> tuple[Predictions, Mapping[str, Scores]]:
    """Predict each case once; our scores, and those that MLPerf's script computes from LoadGen's log.

    Raises:
        UserError: when the log, of 128 MiB a case, cannot be written whole.
    """
    folder = log_folder(settings.output_dir, "accuracy")
    need_disk(folder, len(cases.names), cases.store.padded_shape)
    out.info(f"LoadGen, {plan.scenario}, accuracy: {len(cases.names)} cases; log in {folder}")
    saved, predictions = segmentation_folder(settings), Predictions()

    def answer(indices: Sequence[int], output: Any) -> list[np.ndarray]:
        for index, labels in zip(indices, engine.labels(output), strict=False):
            name = cases.names[index]
            predictions.add(cases.by_name[name], cases.store.load(name).properties, labels, saved)
        # The format of MLPerf's reference, whose own script can read the log too.
        return [np.ascontiguousarray(logits, np.float16) for logits in engine.logits(output)[: len(indices)]]

    harness = Harness(
        engine,
        lambda index: cases.store.load(cases.names[index]).array,
        settings.batch_size,
        settings.streams,
        lambda sample, indices: None,
        answer,
    )
    chosen = test_settings(plan, "AccuracyOnly", EXPECTED_S, settings)
    harness.run(chosen, len(cases.names), plan.performance_samples, folder)
    return predictions, logs.mlperf_dice(folder, cases)


def compare(ours: Dice, mlperf: Mapping[str, Scores], out: Console) -> LoadGenResult:
    """MLPerf's means (nnU-Net's nanmean of each region, then the mean of the three) beside ours."""
    summary = regions.summarise(list(mlperf.values()))
    theirs = {**summary.means, "total": summary.total}
    difference = {
        region: None if value is None or (own := ours.of(region)) is None else own - value for region, value in theirs.items()
    }
    shown = ", ".join(f"{region} undefined" if value is None else f"{region} {value:.4f}" for region, value in theirs.items())
    out.info(f"LoadGen's accuracy log, scored as MLPerf does: {shown}")
    figures = [
        (f"loadgen_accuracy_{region.lower()}", None if value is None else 100 * value, "percents")
        for region, value in theirs.items()
    ]
    worst = max((abs(value) for value in difference.values() if value is not None), default=0.0)
    warnings = []
    if worst > DICE_AGREEMENT or any((ours.of(region) is None) != (theirs[region] is None) for region in theirs):
        warnings.append(
            RunWarning(
                "loadgen-dice-differs",
                f"Dice from LoadGen's log differs from ours by up to {worst:.2g}, or one of them is undefined.",
                "Please report this with results.json.",
            )
        )
    return LoadGenResult({"accuracy": {**theirs, "cases": mlperf, "own_minus_loadgen": difference}}, Told(figures, warnings))
