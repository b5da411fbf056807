"""One case: its files are checked, then prepared. What is wrong with a case is said in words of its files."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet3d.brats import nifti, segmentations
from unet3d.brats.dataset import Case
from unet3d.brats.nifti import times
from unet3d.brats.preprocessing import nnunet
from unet3d.brats.preprocessing.volume import PADDED_SHAPE, Volume, check_values, plain_properties
from unet3d.errors import UserError, shown
from unet3d.workload import MODALITIES

# ITK scales voxels in single precision, this package in double: by which share of the largest they may differ.
SCALING_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Scan:
    """A case's images as nnU-Net reads them: float32 [modality, z, y, x], and its properties of the case."""

    array: np.ndarray
    properties: dict


def prepare(case: Case, padded_shape: Sequence[int] = PADDED_SHAPE) -> Volume:
    """Checks and preprocesses a case. The returned array is cropped, not yet padded.

    Raises UserError, without the case's name, for a modality that is missing, broken, empty, the same everywhere or not
    finite, for files that do not fit together, for unexpected labels in the true segmentation (which may be absent), and
    for a brain larger than `padded_shape`.
    """
    return process(read(case), padded_shape)


def read(case: Case, truth: bool = True, threads: int = 1) -> Scan:
    """Reads the files of a case and checks them. truth: the true segmentation too, where there is one.

    Raises UserError as `prepare` does.
    """
    check_presence(case)
    files = dict(zip(MODALITIES, case.images, strict=True))
    # A truth that cannot be read is not an absent one.
    if truth and os.path.lexists(case.truth):
        files["seg"] = case.truth
    with ThreadPoolExecutor(threads) as pool:
        checking = {kind: pool.submit(_checked, kind, file) for kind, file in files.items()}
        images = {kind: future.result() for kind, future in checking.items()}
        _check_grids({kind: image.grid for kind, image in images.items()})
        scans = [images[modality] for modality in MODALITIES]
        # Voxels that are stored as they are can be read in one way only: there is no need to unpack them twice.
        if not any(image.scaled for image in scans):
            array = np.empty((len(scans), *scans[0].voxels.shape), np.float32)
            list(pool.map(lambda to, image: np.copyto(to, image.voxels), array, scans))
            return Scan(array, nnunet.properties(scans[0].grid, case.images))
        try:
            array, properties = nnunet.load(case.images, threads)
        except RuntimeError as error:
            raise UserError(f"ITK cannot read the images ({shown(' '.join(str(error).split())[-150:])})") from None
        for kind, voxels in zip(MODALITIES, array, strict=True):
            _check_scaling(kind, voxels, images[kind].voxels, files[kind])
    return Scan(array, properties)


def _checked(kind: str, file: Path) -> nifti.Image:
    image = nifti.read(kind, file)
    if kind == "seg":
        segmentations.renumbered(image.voxels, file)
    elif not image.voxels.any():
        raise UserError(f"{kind} is zero everywhere")
    return image


def _check_scaling(modality: str, voxels: np.ndarray, image: np.ndarray, file: Path) -> None:
    """See that ITK's voxels of a file are ours."""
    if not np.allclose(voxels, image, rtol=0, atol=SCALING_TOLERANCE * float(np.abs(image).max())):
        raise UserError(f"{modality} has a header that programs read in different ways; write the file anew: {shown(file)}")


def process(scan: Scan, padded_shape: Sequence[int] = PADDED_SHAPE) -> Volume:
    """Crops, resamples and normalises a scan, which is given up. The returned array is cropped, not yet padded.

    Raises UserError as `prepare` does.
    """
    array, properties, outside = nnunet.crop(scan.array, scan.properties)
    _check_size(nnunet.resampled_size(array.shape[1:], properties), padded_shape)
    array, properties = nnunet.resample_normalise(array, properties, outside)
    try:
        check_values(array)
        return Volume(np.ascontiguousarray(array), plain_properties(properties))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"what comes out is no volume: {error}") from None


def check_presence(case: Case) -> None:
    """Raises UserError naming the modalities without a file."""
    missing = {modality: file for modality, file in zip(MODALITIES, case.images, strict=True) if not file.is_file()}
    if missing:
        raise UserError(f"missing modality {', '.join(missing)}: no file {shown(next(iter(missing.values())))}")


def _check_grids(grids: Mapping[str, nifti.Grid]) -> None:
    """See that the files of a case lie on one grid.

    Origins of images are left out: nnU-Net ignores them, and a shifted origin changes no voxel. That of the truth counts:
    it is the only sign that labels were drawn on other images.
    """
    if len({grid.size for grid in grids.values()}) > 1:
        raise UserError(f"shapes differ: {', '.join(f'{kind} {times(grid.size)}' for kind, grid in grids.items())}")
    for kind, grid in grids.items():
        if (differing := grid.differs(grids["t1"])) and (kind == "seg" or differing != "origin"):
            raise UserError(f"{kind} and t1 differ in {differing}; register them to one grid")


def _check_size(size: Sequence[int], padded_shape: Sequence[int]) -> None:
    """See that a volume fits before it is made. size: at 1 mm."""
    if any(n > p for n, p in zip(size, padded_shape, strict=True)):
        raise UserError(
            f"larger than the padded shape: non-zero region {times(size)} at 1 mm (z, y, x), at most {times(padded_shape)} fits"
        )
    if min(size) < 1:
        raise UserError(
            f"the non-zero region has {times(size)} voxels at 1 mm (z, y, x); at least one along each axis is needed"
        )
