"""The network's input and how its output goes back to the space of the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from unet3d import workload
from unet3d.brats import nifti

PADDED_SHAPE = workload.SHAPE

# What nnU-Net records about a case that is needed to put a segmentation back, and the shape of each; same names and
# meaning as there.
PROPERTIES = {
    "original_size_of_raw_data": (3,),
    "original_spacing": (3,),
    "itk_origin": (3,),
    "itk_spacing": (3,),
    "itk_direction": (9,),
    "crop_bbox": (3, 2),
    "size_after_cropping": (3,),
    "size_after_resampling": (3,),
    "spacing_after_resampling": (3,),
}
# A z-score is at most the square root of the number of voxels.
LARGEST_SCORE = nifti.MOST_VOXELS**0.5 + 1
# Of a modality inside the mask; 1 but for what is exactly the mean, which cannot be told from the outside.
LEAST_DEVIATION = 0.5


@dataclass(frozen=True)
class Volume:
    """`array`: float32 [4, z, y, x], modalities t1, t1ce, t2, flair. `properties`: see PROPERTIES; lengths in mm."""

    array: np.ndarray
    properties: dict


def plain_properties(properties: object) -> dict:
    """PROPERTIES alone, as lists of Python numbers that fit together.

    Raises KeyError naming one that is missing, TypeError or ValueError for what describes no volume.
    """
    if not isinstance(properties, Mapping):
        raise TypeError("properties are no dict")
    plain = {key: _numbers(properties[key], key, shape) for key, shape in PROPERTIES.items()}
    sizes = [key for key in plain if key.startswith(("original_size", "size_", "crop_"))]
    if any(number != int(number) for key in sizes for number in np.ravel(plain[key])):
        raise ValueError("sizes are no whole numbers")
    plain |= {key: np.asarray(plain[key]).astype(int).tolist() for key in sizes}
    original, cropped, resampled = (plain[key] for key in sizes if key != "crop_bbox")
    before, after = plain["original_spacing"], plain["spacing_after_resampling"]
    nifti.check_extents(original, before)
    nifti.check_extents(resampled, after)
    nifti.check_directions(plain["itk_direction"], plain["itk_origin"])
    if not nifti.near(before, plain["itk_spacing"][::-1]):
        raise ValueError("original_spacing is not itk_spacing")
    box = plain["crop_bbox"]
    if not all(0 <= low < high <= extent for (low, high), extent in zip(box, original, strict=True)):
        raise ValueError("crop_bbox is outside of the original size")
    if [high - low for low, high in box] != cropped:
        raise ValueError("crop_bbox is not of size_after_cropping")
    expected = np.round(np.array(before) / np.array(after) * np.array(cropped))
    if np.abs(expected - resampled).max() > 1:
        raise ValueError("size_after_resampling does not follow from the spacing")
    return plain


def _numbers(value: object, key: str, shape: tuple[int, ...]) -> list:
    """Nested lists of finite numbers of exactly this shape; nothing larger is walked through."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.shape == shape else None
    if not isinstance(value, list | tuple) or len(value) != shape[0]:
        raise TypeError(f"{key} has not the shape {shape}")
    if len(shape) > 1:
        return [_numbers(entry, key, shape[1:]) for entry in value]
    if not all(isinstance(number, Real) and not isinstance(number, bool) and abs(float(number)) < 2**53 for number in value):
        raise TypeError(f"{key} is not made of finite numbers")
    return [int(number) if isinstance(number, Integral) else float(number) for number in value]


def check_values(array: np.ndarray) -> None:
    """See that float32 [4, z, y, x], cropped or padded, is a volume of z-scores, before it is scored.

    Raises ValueError for NaN, for infinite and for impossible values, and for a modality without contrast.
    """
    for name, image in zip(workload.MODALITIES, array, strict=True):
        # The largest of all: NaN where one is NaN.
        largest = float(np.abs(image).max())
        if not largest <= LARGEST_SCORE:
            raise ValueError(f"{name} has values of {largest:g}, not NaN and at most {LARGEST_SCORE:.0f} are allowed")
        inside = image[image != 0]
        if not inside.size or float(np.sqrt(np.mean(np.square(inside, dtype=np.float64)))) < LEAST_DEVIATION:
            raise ValueError(f"{name} has no contrast, it is the same everywhere")


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
