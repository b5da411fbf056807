"""Label maps as files: BraTS' numbering on disk, nnU-Net's in memory.

nnU-Net's BraTS task renumbers the classes so that they are consecutive; the network's outputs and all arrays here
follow that: 1 edema, 2 necrotic core and non-enhancing tumour, 3 enhancing tumour.
"""

import gzip
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unet3d import files
from unet3d.brats import nifti
from unet3d.errors import UserError, shown
from unet3d.workload import BRATS_TO_NNUNET, NNUNET_TO_BRATS


def from_brats(labels: np.ndarray) -> np.ndarray:
    """BraTS' labels 0, 1, 2, 4 as nnU-Net's, uint8 of the same shape. Raises UserError for any other value."""
    return _renumber(labels, BRATS_TO_NNUNET)


def to_brats(labels: np.ndarray) -> np.ndarray:
    """nnU-Net's labels 0 to 3 as BraTS', uint8 of the same shape. Raises UserError for any other value."""
    return _renumber(labels, NNUNET_TO_BRATS)


def _renumber(labels: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    renumbered = np.zeros(labels.shape, np.uint8)
    known = labels == 0
    for old, new in numbers.items():
        if old:
            mask = labels == old
            renumbered[mask] = new
            known |= mask
    if not known.all():
        unexpected = ", ".join(f"{value:g}" for value in np.unique(labels[~known])[:5])
        raise UserError(f"unexpected label {unexpected}; allowed are {', '.join(map(str, numbers))}")
    return renumbered


def renumbered(voxels: np.ndarray, path: Path) -> np.ndarray:
    """Labels [z, y, x] of a file with BraTS' numbering, as nnU-Net's, uint8. Raises UserError for unexpected ones."""
    try:
        return from_brats(voxels)
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from None


def read(path: str | Path, properties: Mapping | None = None) -> np.ndarray:
    """Labels of a file with BraTS' numbering, as nnU-Net's: uint8 [z, y, x].

    properties: those of the preprocessed case, where there is one: the labels must lie on its grid, as files change.
    Raises UserError for a file that is absent or broken, for another grid, and for unexpected labels.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise UserError(f"{shown(path)} is missing; accuracy needs the true segmentation")
    image = nifti.read("seg", path)
    grid, voxels = image.grid, image.voxels
    if properties is None:
        return renumbered(voxels, path)
    expected = nifti.Grid(
        tuple(properties["original_size_of_raw_data"][::-1]),
        *(tuple(properties[key]) for key in ("itk_spacing", "itk_direction", "itk_origin")),
    )
    differing = "shape" if grid.size != expected.size else grid.differs(expected)
    if differing:
        raise UserError(
            f"{shown(path)}: seg differs from the preprocessed images in {differing}; "
            "put the right file there, or remove the case from PREPROCESSED_DIR and run ./preprocess.sh"
        )
    return renumbered(voxels, path)


def save(path: str | Path, labels: np.ndarray, properties: dict) -> None:
    """Writes labels (nnU-Net's, uint8 [z, y, x] in the case's original space) as NIfTI with BraTS' numbering.

    path: ends in .nii.gz. properties: those of the preprocessed case, which hold origin, spacing and direction.
    The file appears whole or not at all. Raises UserError when it cannot be written.
    """
    import SimpleITK

    path = Path(path)
    original = tuple(properties["original_size_of_raw_data"])
    if labels.shape != original:
        raise ValueError(f"labels of shape {labels.shape} are not in the original space {original}")
    image = SimpleITK.GetImageFromArray(to_brats(labels))
    image.SetOrigin(properties["itk_origin"])
    image.SetSpacing(properties["itk_spacing"])
    image.SetDirection(properties["itk_direction"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole_file(path) as partial:
            SimpleITK.WriteImage(image, str(partial))
            _check_whole(partial, labels.size)
    except (OSError, EOFError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "writing failed, is the disk full?"
        raise UserError(f"{path}: cannot be written ({reason}); free some space or name another folder") from None


def _check_whole(path: Path, voxels: int) -> None:
    """ITK says nothing when the disk is full while it compresses; gzip's checksum and the length do."""
    held = 0
    with gzip.open(path) as stream:
        while piece := stream.read(1 << 22):
            held += len(piece)
    if held < voxels:
        raise EOFError
