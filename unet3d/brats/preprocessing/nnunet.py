"""Calls into nnU-Net 1.7.1 without what it prints."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

TARGET_SPACING = (1.0, 1.0, 1.0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps nnU-Net's progress messages, its imports' and numpy's warnings off the console: values are checked after it."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def load(files: Sequence[Path]) -> tuple[np.ndarray, dict]:
    """Float32 [modality, z, y, x] as in the files, and nnU-Net's properties of the case."""
    with quiet():
        from nnunet.preprocessing.cropping import load_case_from_list_of_files

        array, _, properties = load_case_from_list_of_files([str(file) for file in files])
    return array, properties


def crop(array: np.ndarray, properties: dict) -> tuple[np.ndarray, dict, np.ndarray]:
    """Cut to the non-zero region [modality, z, y, x]; the properties with those of the crop, and nnU-Net's map of what is
    outside of the mask, -1 there."""
    with quiet():
        from nnunet.preprocessing.cropping import ImageCropper

        array, outside, properties = ImageCropper.crop(array, properties)
    return array, properties, outside


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
