"""Accuracy mode: the fold's cases, each predicted once by the engine that is timed, and their Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from unet3d import progress
from unet3d.brats import dataset, folds, preprocessing, regions, sample_data, segmentations
from unet3d.config.values import Settings
from unet3d.engines.base import Engine
from unet3d.errors import UserError, shown
from unet3d.files import prepare_folder
from unet3d.measure import pipeline
from unet3d.planning.group import Group
from unet3d.results.console import Console, fraction
from unet3d.results.facts import Dice, RunWarning, Scores, VolumesFacts
from unet3d.results.report import slices
from unet3d.results.timing import Sample
from unet3d.workload import REGIONS


@dataclass(frozen=True)
class Cases:
    """Cases to predict: `names` in the fold's order, with their files and preprocessed volumes."""

    names: Sequence[str]
    by_name: dict[str, dataset.Case]
    store: preprocessing.Store


@dataclass
class Predictions:
    """Scores of the cases predicted so far, by name, and of each the slice that the report may show."""

    scores: dict[str, Scores] = field(default_factory=dict)
    slices: dict[str, slices.Labels] = field(default_factory=dict)

    def add(self, case: dataset.Case, properties: dict[str, Any], labels: np.ndarray, folder: Path | None) -> None:
        """Score a case in its original space; its segmentation is saved where a folder is named.

        labels: nnU-Net's [z, y, x] of the padded volume. properties: the preprocessed case's.
        """
        restored, truth = preprocessing.restore(labels, properties), segmentations.read(case.truth, properties)
        if folder is not None:
            segmentations.save(folder / f"{case.name}.nii.gz", restored, properties)
        self.scores[case.name] = regions.score(restored, truth)
        self.slices[case.name] = slices.of_most_tumour(restored, truth)


def prepare(settings: Settings, out: Console, group: Group) -> tuple[Cases, VolumesFacts]:
    """Choose the fold's cases and preprocess those that are not yet.

    Raises:
        UserError: when the data set cannot be read, a case is bad or has no truth, or volumes cannot be stored.
    """
    source, store = settings.dataset_dir, settings.preprocessed_dir
    assert source is not None and store is not None  # refused by the planning otherwise
    by_name = {case.name: case for case in dataset.find_cases(source)}
    fold = folds.fold_names(by_name, settings.fold)
    names = fold if settings.num_images == "all" else fold[: settings.num_images]
    without = [name for name in names if not by_name[name].truth.is_file()]
    if without:
        raise UserError(
            f"{len(without)} of the fold's cases have no _seg.nii.gz, the first is {shown(without[0])}; accuracy "
            "needs the training data with its labels"
        )
    if group.rank == 0:
        reason = f" ({why})" if (why := settings.reasons.get("preprocessed_dir")) else ""
        out.info(f"fold {settings.fold}: {len(names)} of {len(by_name)} cases; preprocessed volumes in {store}{reason}")
        _preprocess(source, store, names, group)
    group.barrier()
    # Machines may share the folder; where they don't, the first rank of each fills its own.
    if group.rank and group.local_rank == 0:
        _preprocess(source, store, names, group)
    group.barrier()
    published = folds.brats2019(settings.fold)
    standard = set(names) <= set(published)
    facts = VolumesFacts(
        kind="synthetic sample data" if sample_data.is_sample(source) else "BraTS 2019" if standard else "other data set",
        path=source,
        fold=settings.fold,
        cases=list(names),
        standard_names=standard and len(names) == len(published),
        preprocessed_dir=store,
        names_sha256=sha256("\n".join(names).encode()).hexdigest(),
    )
    return Cases(names, by_name, preprocessing.Store(store)), facts


def _preprocess(source: Path, store: Path, names: Sequence[str], group: Group) -> None:
    group.working("preprocessing", limited=False)
    report = preprocessing.preprocess(source, store, names)
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise UserError(
            f"{len(report.failed)} of {len(names)} cases cannot be used, the first is {shown(name)}: {reason}; "
            "replace the files or choose other cases with NUM_IMAGES or FOLD"
        )


def segmentation_folder(settings: Settings) -> Path | None:
    """Where segmentations are saved; None where they are not.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if not settings.save_segmentations:
        return None
    folder = settings.output_dir / "segmentations"
    prepare_folder(folder, "OUTPUT_DIR")
    return folder


def predict(engine: Engine, cases: Cases, settings: Settings, group: Group) -> Predictions:
    """Predict each case once, this rank every `size`-th of them; rank 0 gets those of all ranks, the others their own.

    Raises:
        UserError: when volumes cannot be read or segmentations not be written.
    """
    mine, batch, folder = list(cases.names)[group.rank :: group.size], settings.batch_size, segmentation_folder(settings)
    predictions = Predictions()
    batches = [mine[first : first + batch] for first in range(0, len(mine), batch)]
    properties: dict[str, dict[str, Any]] = {}

    def read(index: int) -> np.ndarray:
        volumes = [cases.store.load(name) for name in batches[index]]
        properties.update({name: volume.properties for name, volume in zip(batches[index], volumes, strict=True)})
        return fill_batch([volume.array for volume in volumes], batch)

    def hand_on(index: int, sample: Sample, labels: np.ndarray) -> None:
        for name, predicted in zip(batches[index], labels, strict=False):
            predictions.add(cases.by_name[name], properties.pop(name), predicted, folder)
            phase.advance()
        predicting(index + 1)

    def predicting(index: int) -> None:
        if index < len(batches):
            group.working(f"predicting {batches[index][0]}")

    with progress.phase("predicting", len(mine), "cases") as phase:
        predicting(0)
        pipeline.run(engine, len(batches), read, hand_on, beside=True)
    everything = Predictions()
    for part in group.gather(predictions):
        everything.scores.update(part.scores)
        everything.slices.update(part.slices)
    return everything if group.rank == 0 else predictions


def fill_batch(volumes: Sequence[np.ndarray], batch: int) -> np.ndarray:
    """[N, 4, z, y, x] of up to N volumes; a last batch is filled up, so that the engine meets the shape it is compiled for."""
    if batch == 1:
        return volumes[0][None]
    return np.stack([*volumes, *[volumes[-1]] * (batch - len(volumes))])


def keep_slices(folder: Path, cases: Cases, predictions: Predictions) -> list[RunWarning]:
    """Write the slices that the report shows; a failure costs these pictures and a warning, nothing else."""
    try:
        slices.save(folder, predictions.scores, predictions.slices, cases.by_name)
    except (OSError, UserError) as error:
        return [
            RunWarning(
                "no-slices",
                f"the report has no pictures of cases: {str(error).partition(chr(10))[0]}.",
                "Free some space in OUTPUT_DIR and see that DATASET_DIR can be read.",
            )
        ]
    return []


def summarise(scores: dict[str, Scores], names: Sequence[str], weights: str, out: Console) -> Dice:
    """Means over the scores of the named cases, told to the console."""
    summary = regions.summarise([scores[name] for name in names])
    dice = Dice(summary.means, summary.total, summary.undefined, {name: scores[name] for name in names})
    shown = ", ".join(f"{region} {fraction(dice.of(region))}" for region in (*REGIONS, "total"))
    out.info(f"Dice of {len(names)} cases (weights: {weights}): {shown}")
    return dice
