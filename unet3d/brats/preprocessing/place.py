"""Where a data set's preprocessed volumes are kept when PREPROCESSED_DIR does not say."""

from __future__ import annotations

import contextlib
from pathlib import Path

from unet3d import files
from unet3d.brats import folds
from unet3d.brats.dataset import default_store, find_cases
from unet3d.brats.preprocessing.store import Store
from unet3d.errors import UserError


def choose(dataset_dir: Path, output_dir: Path, fold: int | None = None) -> tuple[Path, str]:
    """The folder, and why it is this one: beside the data, or in OUTPUT_DIR where nothing can be written there.

    A data set that is mounted read-only may have its volumes beside it already. fold: whose cases have to be there; None
    for every case.
    """
    beside = default_store(dataset_dir)
    if files.can_write(beside) or _is_whole(dataset_dir, Store(beside), fold):
        return beside, "beside the data"
    return output_dir / "preprocessed_data", f"{beside} cannot be written to"


def _is_whole(dataset_dir: Path, store: Store, fold: int | None) -> bool:
    # A data set that cannot be read is refused where it is read.
    with contextlib.suppress(UserError, OSError):
        cases = {case.name: case for case in find_cases(dataset_dir)}
        needed = set(cases) if fold is None else set(folds.fold_names(cases, fold))
        if store.is_mlperf:
            return needed <= set(store.names())
        return all(store.is_current(cases[name]) for name in needed)
    return False
