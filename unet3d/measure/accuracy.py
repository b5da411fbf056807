"""Accuracy mode: the fold's cases, each predicted once by the engine that is timed, and their Dice."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d.brats import dataset, folds, preprocessing, regions, sample_data, segmentations
from unet3d.errors import UserError
from unet3d.files import prepare_folder
from unet3d.results.report import slices

if TYPE_CHECKING:
    from pathlib import Path

    from unet3d.engines.base import Engine
    from unet3d.planning.resolve import Settings
    from unet3d.ranks import Solo
    from unet3d.results.console import Console
    from unet3d.results.record import Record


@dataclass(frozen=True)
class Cases:
    """Cases to predict: `names` in the fold's order, with their files and preprocessed volumes."""

    names: Sequence[str]
    by_name: dict[str, dataset.Case]
    store: preprocessing.Store


def prepare(record: Record, out: Console, group: Solo) -> Cases:
    """Choose the fold's cases and preprocess those that are not yet.

    Raises:
        UserError: when the data set cannot be read, a case is bad or has no truth, or volumes cannot be stored.
    """
    settings = record.settings
    by_name = {case.name: case for case in dataset.find_cases(settings.dataset_dir)}
    fold = folds.fold_names(by_name, settings.fold)
    names = fold if settings.num_images == "all" else fold[: settings.num_images]
    without = [name for name in names if not by_name[name].truth.is_file()]
    if without:
        raise UserError(
            f"{len(without)} of the fold's cases have no _seg.nii.gz, the first is {without[0]}; accuracy "
            "needs the training data with its labels"
        )
    if group.rank == 0:
        out.info(
            f"fold {settings.fold}: {len(names)} of {len(by_name)} cases; preprocessed volumes in {settings.preprocessed_dir}"
        )
        _preprocess(settings, names, group)
    group.barrier()
    # Machines may share the folder; where they don't, the first rank of each fills its own.
    if group.rank and group.local_rank == 0:
        _preprocess(settings, names, group)
    group.barrier()
    standard = set(names) <= set(folds.brats2019(settings.fold))
    record.data = {
        "kind": "BraTS 2019" if standard else "other data set",
        "path": settings.dataset_dir,
        "fold": settings.fold,
        "cases": list(names),
        "standard_names": standard and len(names) == len(folds.brats2019(settings.fold)),
        "preprocessed_dir": settings.preprocessed_dir,
        "names_sha256": sha256("\n".join(names).encode()).hexdigest(),
    }
    if sample_data.is_sample(settings.dataset_dir):
        record.data["kind"] = "synthetic sample data"
    return Cases(names, by_name, preprocessing.Store(settings.preprocessed_dir))


def _preprocess(settings: Settings, names: Sequence[str], group: Solo) -> None:
    group.working("preprocessing", limited=False)
    report = preprocessing.preprocess(settings.dataset_dir, settings.preprocessed_dir, names)
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise UserError(
            f"{len(report.failed)} of {len(names)} cases cannot be used, the first is {name}: {reason}; "
            "replace the files or choose other cases with NUM_IMAGES or FOLD"
        )


def predict_and_score(engine: Engine, cases: Cases, record: Record, out: Console, group: Solo) -> dict[str, Any]:
    """Predict each case once, this rank every `size`-th of them, and score it in its original space.

    Returns the regions' mean Dice, their mean `total`, the number of undefined values of each region, and each case's.
    """
    from tqdm import tqdm

    settings = record.settings
    mine = list(cases.names)[group.rank :: group.size]
    folder = settings.output_dir / "segmentations"
    if settings.save_segmentations:
        prepare_folder(folder, "OUTPUT_DIR")
    found: dict[str, dict[str, float | None]] = {}
    kept: dict[str, slices.Labels] = {}
    batch = settings.batch_size
    with tqdm(
        total=len(mine), unit="case", desc="predicting", leave=False, disable=not sys.stderr.isatty() or group.rank > 0
    ) as bar:
        for first in range(0, len(mine), batch):
            names = mine[first : first + batch]
            group.working(f"predicting {names[0]}")
            volumes = [cases.store.load(name) for name in names]
            # The last batch is filled up, so that the engine meets the one shape it was compiled for.
            filled = volumes + [volumes[-1]] * (batch - len(volumes))
            labels = engine.labels(engine.infer(engine.stage(np.stack([volume.array for volume in filled]))))
            for name, volume, predicted in zip(names, volumes, labels, strict=False):
                found[name] = score_case(
                    cases.by_name[name], volume.properties, predicted, folder if settings.save_segmentations else None, kept
                )
                bar.update()
    everything: dict[str, dict[str, float | None]] = {}
    for part, slices_kept in group.gather((found, kept)):
        everything.update(part)
        kept.update(slices_kept)
    if group.rank:
        return {}
    keep_slices(record, cases, everything, kept)
    return summarise({name: everything[name] for name in cases.names}, record, out)


def keep_slices(
    record: Record, cases: Cases, scores: dict[str, dict[str, float | None]], kept: dict[str, slices.Labels]
) -> None:
    """Write the slices that the report shows; a failure costs these pictures and a warning, nothing else."""
    try:
        slices.save(record.settings.output_dir, scores, kept, cases.by_name)
    except (OSError, RuntimeError) as error:
        record.warn(
            "no-slices",
            f"the report has no pictures of cases: {str(error).partition(chr(10))[0]}.",
            "Free some space in OUTPUT_DIR and see that DATASET_DIR can be read.",
        )


def summarise(scores: dict[str, dict[str, float | None]], record: Record, out: Console) -> dict[str, Any]:
    """Means over the cases' scores, as `predict_and_score` returns them; told to the console."""
    summary = regions.summarise(list(scores.values()))
    accuracy = {**summary.means, "total": summary.total, "undefined": summary.undefined, "cases": scores}
    out.info(
        f"Dice of {len(scores)} cases (weights: {record.weights['kind']}): "
        + ", ".join(f"{region} {_shown(accuracy[region])}" for region in ("WT", "TC", "ET", "total"))
    )
    return accuracy


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def score_case(
    case: dataset.Case,
    properties: dict,
    predicted: np.ndarray,
    folder: Path | None = None,
    kept: dict[str, slices.Labels] | None = None,
) -> dict[str, float | None]:
    """Dice of a case's regions in its original space; the segmentation is saved where a folder is named.

    predicted: nnU-Net's labels [z, y, x] of the padded volume. properties: the preprocessed case's. kept: takes in the
    slice that the report may show.
    """
    restored, truth = preprocessing.restore(predicted, properties), segmentations.read(case.truth)
    if folder is not None:
        segmentations.save(folder / f"{case.name}.nii.gz", restored, properties)
    score = regions.score(restored, truth)
    if kept is not None:
        kept[case.name] = slices.of_most_tumour(restored, truth)
    return score
