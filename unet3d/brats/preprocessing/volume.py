"""The network's input and how its output goes back to the space of the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unet3d import workload

PADDED_SHAPE = workload.SHAPE

# What nnU-Net records about a case that is needed to put a segmentation back; same names and meaning as there.
PROPERTIES = (
    "original_size_of_raw_data",
    "original_spacing",
    "itk_origin",
    "itk_spacing",
    "itk_direction",
    "crop_bbox",
    "size_after_cropping",
    "size_after_resampling",
    "spacing_after_resampling",
)


@dataclass(frozen=True)
class Volume:
    """`array`: float32 [4, z, y, x], modalities t1, t1ce, t2, flair. `properties`: see PROPERTIES; lengths in mm."""

    array: np.ndarray
    properties: dict


def plain_properties(properties: Mapping) -> dict:
    """PROPERTIES alone, as lists of Python numbers. Raises KeyError naming one that is missing."""
    plain = {}
    for key in PROPERTIES:
        value = np.asarray(properties[key])
        if value.dtype.kind not in "iuf":
            raise TypeError(f"{key} is not made of numbers")
        plain[key] = value.tolist()
    return plain


def padding_before(inner: Sequence[int], padded: Sequence[int]) -> list[int]:
    """Zeros put before each axis; where the difference is odd the extra one goes after, as in batchgenerators'
    pad_nd_image, which nnU-Net and MLPerf's preprocessing use."""
    return [(p - n) // 2 for n, p in zip(inner, padded, strict=True)]


def inner_slices(inner: Sequence[int], padded: Sequence[int]) -> tuple[slice, ...]:
    """Where the volume of size `inner` lies in the padded one."""
    return tuple(slice(low, low + n) for low, n in zip(padding_before(inner, padded), inner, strict=True))


def pad(array: np.ndarray, padded_shape: Sequence[int] = PADDED_SHAPE) -> np.ndarray:
    """[4, z, y, x] in the middle of zeros of [4, *padded_shape]. Raises ValueError when it is larger than that."""
    inner = array.shape[1:]
    if any(n > p for n, p in zip(inner, padded_shape, strict=True)):
        raise ValueError(f"cropped volume {inner} is larger than the padded shape {tuple(padded_shape)}")
    padded = np.zeros((len(array), *padded_shape), array.dtype)
    padded[:, *inner_slices(inner, padded_shape)] = array
    return padded


def restore(labels: np.ndarray, properties: Mapping) -> np.ndarray:
    """Puts a segmentation of the padded volume back into the space of the case's files.

    labels: integers [z, y, x] of the padded shape. Returns uint8 [z, y, x] of original_size_of_raw_data, background
    outside of the crop. A resampled case is resampled back by nnU-Net's own function for label maps; at 1 mm, as
    BraTS is, nothing is interpolated.
    """
    cropped_size = properties["size_after_cropping"]
    labels = labels[inner_slices(properties["size_after_resampling"], labels.shape)]
    if tuple(labels.shape) != tuple(cropped_size):
        labels = _resample_labels(labels, properties)
    original = np.zeros(properties["original_size_of_raw_data"], np.uint8)
    original[tuple(slice(low, high) for low, high in properties["crop_bbox"])] = labels
    return original


def _resample_labels(labels: np.ndarray, properties: Mapping) -> np.ndarray:
    # The choice of a separate treatment of z is that of nnU-Net's save_segmentation_nifti_from_softmax.
    from unet3d.brats.preprocessing.nnunet import quiet

    with quiet():
        from nnunet.preprocessing.preprocessing import get_do_separate_z, get_lowres_axis, resample_data_or_seg

        axis = None
        for spacing in (properties["original_spacing"], properties["spacing_after_resampling"]):
            if get_do_separate_z(spacing):
                axis = get_lowres_axis(spacing)
                break
        separate_z = axis is not None and len(axis) == 1
        size = properties["size_after_cropping"]
        return resample_data_or_seg(labels[None], size, is_seg=True, axis=axis, order=1, do_separate_z=separate_z, order_z=0)[0]
