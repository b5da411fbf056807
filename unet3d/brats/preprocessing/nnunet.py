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
    """Keeps nnU-Net's progress messages and its imports' deprecation warnings off the console."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def load(files: Sequence[Path]) -> tuple[np.ndarray, dict]:
    """Float32 [modality, z, y, x] as in the files, and nnU-Net's properties of the case."""
    with quiet():
        from nnunet.preprocessing.cropping import load_case_from_list_of_files

        array, _, properties = load_case_from_list_of_files([str(file) for file in files])
    return array, properties


def crop_resample_normalise(array: np.ndarray, properties: dict) -> tuple[np.ndarray, dict]:
    """nnU-Net's GenericPreprocessor as this model's plans set it up: MRI, z-score inside the non-zero mask, axes as
    they are, 1 mm. Returns float32 [modality, z, y, x], cropped, and the properties with those of the crop added."""
    with quiet():
        from nnunet.preprocessing.cropping import ImageCropper
        from nnunet.preprocessing.preprocessing import GenericPreprocessor

        modalities = range(len(array))
        preprocessor = GenericPreprocessor(
            normalization_scheme_per_modality=dict.fromkeys(modalities, "nonCT"),
            use_nonzero_mask=dict.fromkeys(modalities, True),
            transpose_forward=[0, 1, 2],
        )
        array, outside, properties = ImageCropper.crop(array, properties)
        array, _, properties = preprocessor.resample_and_normalize(array, np.array(TARGET_SPACING), properties, outside)
    return array.astype(np.float32, copy=False), properties
