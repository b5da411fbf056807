"""One case: its files are checked, then prepared. What is wrong with a case is said in words of its files."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet3d.brats import segmentations
from unet3d.brats.dataset import Case
from unet3d.brats.preprocessing import nnunet
from unet3d.brats.preprocessing.volume import PADDED_SHAPE, Volume, plain_properties
from unet3d.errors import UserError
from unet3d.workload import MODALITIES

# Allows for headers rewritten in single precision.
GEOMETRY_TOLERANCE = 1e-3
# Far above any brain scan: what a header may claim before its voxels are read into memory.
LARGEST_AXIS = 1024


def prepare(case: Case, padded_shape: Sequence[int] = PADDED_SHAPE) -> Volume:
    """Checks and preprocesses a case. The returned array is cropped, not yet padded.

    Raises UserError, without the case's name, for a modality that is missing, broken, empty or not finite, for files
    that do not fit together, for unexpected labels in the true segmentation (which may be absent), and for a brain
    larger than `padded_shape`.
    """
    check_presence(case)
    files = dict(zip(MODALITIES, case.images, strict=True))
    if case.truth.is_file():
        files["seg"] = case.truth
    held = {kind: _check_gzip(kind, file) for kind, file in files.items()}
    _check_geometry(files)
    for kind, file in files.items():
        _check_voxels(kind, file, held[kind])
    if "seg" in files:
        segmentations.read(files["seg"])

    try:
        array, properties = nnunet.load(case.images)
    except RuntimeError as error:
        raise UserError(f"ITK cannot read the images ({' '.join(str(error).split())[-200:]})") from None
    for modality, image in zip(MODALITIES, array, strict=True):
        if not image.any():
            raise UserError(f"{modality} is zero everywhere")
    array, properties = nnunet.crop_resample_normalise(array, properties)
    if any(n > p for n, p in zip(array.shape[1:], padded_shape, strict=True)):
        raise UserError(
            f"larger than the padded shape: non-zero region {_times(array.shape[1:])} at 1 mm (z, y, x), "
            f"at most {_times(padded_shape)} fits"
        )
    return Volume(np.ascontiguousarray(array), plain_properties(properties))


def check_presence(case: Case) -> None:
    """Raises UserError naming the modalities without a file."""
    missing = {modality: file for modality, file in zip(MODALITIES, case.images, strict=True) if not file.is_file()}
    if missing:
        raise UserError(f"missing modality {', '.join(missing)}: no file {next(iter(missing.values()))}")


def _check_gzip(kind: str, file: Path) -> int:
    """Reads to the end, as ITK may take a cut-off file for one whose rest is zero; returns the bytes inside."""
    held = 0
    try:
        with gzip.open(file) as stream:
            while piece := stream.read(1 << 22):
                held += len(piece)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{kind} is not a whole gzip file ({reason}): {file}") from None
    return held


def _check_geometry(files: dict[str, Path]) -> None:
    import SimpleITK

    sizes, frames = {}, {}
    for kind, file in files.items():
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise UserError(f"{kind} is not a NIfTI file: {file}") from None
        if reader.GetNumberOfComponents() != 1:
            raise UserError(f"{kind} has {reader.GetNumberOfComponents()} values a voxel, one is allowed: {file}")
        sizes[kind] = reader.GetSize()
        # Origins are left out: nnU-Net ignores them, and a shifted origin changes no voxel.
        frames[kind] = np.array([*reader.GetSpacing(), *reader.GetDirection()])
    if len(set(sizes.values())) > 1:
        raise UserError(f"shapes differ: {', '.join(f'{kind} {_times(size)}' for kind, size in sizes.items())}")
    if len(sizes["t1"]) != 3 or max(sizes["t1"]) > LARGEST_AXIS:
        raise UserError(f"shape {_times(sizes['t1'])}: a volume has three axes of at most {LARGEST_AXIS} voxels")
    for kind, frame in frames.items():
        if not np.allclose(frame, frames["t1"], rtol=0, atol=GEOMETRY_TOLERANCE):
            raise UserError(f"{kind} and t1 differ in spacing or direction; register them to one grid")


def _check_voxels(kind: str, file: Path, held: int) -> None:
    """Looks with nibabel: ITK silently reads NaN and infinite voxels as zero, and a header that makes no sense its way.

    held: bytes of the unpacked file.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, SpatialImage

    try:
        image = nibabel.load(file)
        if not isinstance(image, SpatialImage):
            raise ValueError("it holds no volume")
        needed = int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if needed > held:
            raise ValueError(f"{needed} bytes of voxels are announced, the file holds {held}")
        is_float = image.get_data_dtype().kind == "f"
        bad = int(np.count_nonzero(~np.isfinite(np.asarray(image.dataobj)))) if is_float else 0
    except (ImageFileError, HeaderDataError, ValueError, TypeError, OverflowError, OSError, EOFError) as error:
        reason = " ".join(str(error).replace(str(file), "the file").split())
        raise UserError(f"{kind} is not a NIfTI file that can be read ({reason}): {file}") from None
    if bad:
        raise UserError(f"{kind} has {bad} voxels that are NaN or infinite: {file}")


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(n) for n in shape)
