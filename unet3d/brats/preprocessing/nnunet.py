"""Calls into nnU-Net 1.7.1 without what it prints."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet3d.brats.nifti import Grid

TARGET_SPACING = (1.0, 1.0, 1.0)


class _Silence:
    """Standard output and warnings belong to the whole process: the first thread puts them away, the last one back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._restore = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._restore.enter_context(contextlib.redirect_stdout(io.StringIO()))
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.simplefilter("ignore", RuntimeWarning)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_SILENCE = _Silence()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps nnU-Net's progress messages, its imports' and numpy's warnings off the console: values are checked after it.

    Several threads may be inside.
    """
    with _SILENCE:
        yield


def import_libraries() -> None:
    """Import what reading and preparing a case need, so that it is no part of the first case's time."""
    with quiet():
        import nibabel  # noqa: F401
        from nnunet.preprocessing import cropping, preprocessing  # noqa: F401 - ITK comes with them


def load(files: Sequence[Path], threads: int = 1) -> tuple[np.ndarray, dict]:
    """Float32 [modality, z, y, x] as in the files, and nnU-Net's properties of the case. threads: files read at a time."""
    with quiet():
        from nnunet.preprocessing.cropping import load_case_from_list_of_files

        names = [str(file) for file in files]
        if threads == 1:
            array, _, properties = load_case_from_list_of_files(names)
            return array, properties
        # The properties are those of the first file but for the list of all.
        with ThreadPoolExecutor(threads) as pool:
            loaded = list(pool.map(lambda name: load_case_from_list_of_files([name]), names))
    return np.concatenate([array for array, _, _ in loaded]), {**loaded[0][2], "list_of_data_files": names}


def properties(grid: Grid, files: Sequence[Path]) -> dict:
    """nnU-Net's properties of a case whose first image lies on this grid, as `load` gives them."""
    return {
        "original_size_of_raw_data": np.array(grid.size[::-1]),
        "original_spacing": np.array(grid.spacing[::-1]),
        "list_of_data_files": [str(file) for file in files],
        "seg_file": None,
        "itk_origin": grid.origin,
        "itk_spacing": grid.spacing,
        "itk_direction": grid.direction,
    }


def crop(array: np.ndarray, properties: dict) -> tuple[np.ndarray, dict, np.ndarray]:
    """Cut to the non-zero region [modality, z, y, x]; the properties with those of the crop, and nnU-Net's map of what is
    outside of the mask, -1 there."""
    nonzero: NDArray[np.bool_] = (array != 0).any(axis=0)
    sides = [np.flatnonzero(nonzero.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    box = [(int(side[0]), int(side[-1]) + 1) for side in sides]
    with quiet():
        from nnunet.preprocessing.cropping import ImageCropper

        # It fills the holes of a mask of all that it is given, which takes longest; outside of the box there are none.
        array, outside, properties = ImageCropper.crop(array[:, *(slice(*ends) for ends in box)], properties)
    found = zip(properties["crop_bbox"], box, strict=True)
    return array, {**properties, "crop_bbox": [[low + begin for low in ends] for ends, (begin, _) in found]}, outside


def resampled_size(shape: Sequence[int], properties: dict) -> tuple[int, ...]:
    """Voxels along z, y, x that `resample_normalise` will give, as nnU-Net's resample_patient computes them."""
    size = np.round(np.array(properties["original_spacing"]) / np.array(TARGET_SPACING) * np.array(shape))
    return tuple(int(n) for n in size)


def resample_normalise(array: np.ndarray, properties: dict, outside: np.ndarray) -> tuple[np.ndarray, dict]:
    """nnU-Net's GenericPreprocessor as this model's plans set it up: MRI, z-score inside the non-zero mask, axes as
    they are, 1 mm. Takes what `crop` gives; returns float32 [modality, z, y, x] and the properties."""
    with quiet():
        from nnunet.preprocessing.preprocessing import GenericPreprocessor

        modalities = range(len(array))
        preprocessor = GenericPreprocessor(
            normalization_scheme_per_modality=dict.fromkeys(modalities, "nonCT"),
            use_nonzero_mask=dict.fromkeys(modalities, True),
            transpose_forward=[0, 1, 2],
        )
        array, _, properties = preprocessor.resample_and_normalize(array, np.array(TARGET_SPACING), properties, outside)
    return array.astype(np.float32, copy=False), properties
