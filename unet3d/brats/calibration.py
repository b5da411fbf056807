"""Volumes that int8 quantisation is calibrated with: never of the validated fold.

Whole volumes, as the network meets them: InstanceNorm's statistics depend on how much of a volume is background, so
the ranges found on a crop around the brain would be too narrow. Where the run itself has smaller volumes
(VOLUME_SHAPE), their middle of that shape serves. Without cases a volume of noise, as dummy runs measure, and one with a
background around it stand in; small ones, since noise is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet3d import places
from unet3d.brats import noise
from unet3d.errors import UserError, shown

# Two cases decide the ranges of activations well enough: InstanceNorm brings every case to the same scale.
CASES = 2
NOISE_EXTENT = 96


@dataclass(frozen=True)
class Calibration:
    """`volumes()` yields float32 [4, z, y, x] one by one; `source` says what they are."""

    volumes: Callable[[], Iterator[np.ndarray]]
    source: str


def choose(
    shape: tuple[int, int, int], fold: int, seed: int, dataset_dir: Path | None, preprocessed_dir: Path | None
) -> Calibration:
    """Volumes for a run on volumes of `shape` (z, y, x): cases outside the fold, else noise.

    Cases are of the data set where one is named, else of the sample data where it is there.

    Raises:
        UserError: when a data set is named but cannot be read or has no case outside the fold.
    """
    if preprocessed_dir is not None or dataset_dir is not None:
        return _from_cases(dataset_dir, preprocessed_dir, fold, shape)
    from unet3d.brats import sample_data

    if sample_data.is_sample(places.SAMPLE_DATA):
        return _from_cases(places.SAMPLE_DATA, None, fold, shape)
    extents = tuple(min(extent, NOISE_EXTENT) for extent in shape)

    def volumes() -> Iterator[np.ndarray]:
        generator = np.random.default_rng([seed, 1])
        yield noise.everywhere(extents, generator)
        yield noise.with_background(extents, generator)

    told = f"standard normal noise {extents}, one volume with and one without a background, seed {seed}; there is no data set"
    return Calibration(volumes, told)


def _from_cases(dataset_dir: Path | None, store_dir: Path | None, fold: int, shape: tuple[int, ...]) -> Calibration:
    from unet3d.brats import dataset, folds, preprocessing, sample_data

    folder = store_dir if dataset_dir is None else store_dir or dataset.default_store(dataset_dir)
    assert folder is not None, "one of the two is set"
    store = preprocessing.Store(folder)
    if dataset_dir is None or store.is_mlperf:
        everything = store.names()
    else:
        everything = [case.name for case in dataset.find_cases(dataset_dir)]
    where = dataset_dir or store.folder
    held_out = set(folds.fold_names(everything, fold))
    outside = [name for name in everything if name not in held_out]
    if not outside:
        raise UserError(
            f"PRECISION=int8 is calibrated with cases outside fold {fold}, of which {where} has none; "
            "add some, or use PRECISION=bf16 or fp32"
        )
    step = max(1, len(outside) // CASES)
    names = outside[::step][:CASES]

    def volumes() -> Iterator[np.ndarray]:
        if dataset_dir is not None:
            report = preprocessing.preprocess(dataset_dir, store.folder, names)
            if report.failed:
                name, reason = next(iter(report.failed.items()))
                raise UserError(f"PRECISION=int8: {shown(name)}, a case to calibrate with, cannot be used: {reason}")
        for name in names:
            yield _middle(store.load(name).array, shape)

    kind = "synthetic sample cases" if sample_data.is_sample(where) else "cases"
    return Calibration(volumes, f"{len(names)} {kind} outside fold {fold}: {', '.join(names)}")


def _middle(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The middle of a volume [4, z, y, x] where `shape` is smaller."""
    slices = [
        slice(max(0, (have - want) // 2), max(0, (have - want) // 2) + min(have, want))
        for have, want in zip(volume.shape[1:], shape, strict=True)
    ]
    return np.ascontiguousarray(volume[(slice(None), *slices)])
