"""NIfTI files, looked at before ITK reads them: ITK takes what makes no sense its own way, prints, or ends the process.

A file's header says how much memory its voxels take. That is compared with limits, and with what the file holds, before
anything of that size is allocated.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d import files
from unet3d.brats.gunzip import Gunzip
from unet3d.errors import UserError, shown

if TYPE_CHECKING:
    import SimpleITK

# Far above any scan of a head: voxels along an axis and in all, millimetres between two voxels. A case of that many
# voxels takes about 5 GB to preprocess.
LARGEST_AXIS = 1024
MOST_VOXELS = 2**25
SPACINGS_MM = (0.1, 20.0)
# Sums of the squares of that many voxels stay finite in float32.
LARGEST_VALUE = 1e12
# Allows for headers rewritten in single precision.
TOLERANCE = 1e-3
# Between header and voxels there may be notes.
MOST_NOTES = 2**20
# What a file may hold behind its voxels, and what gzip may add to what cannot be compressed.
SLACK = 2**20
LARGEST_FILE = 9 * MOST_VOXELS
# By NIfTI's code, numpy's type: whole and floating-point numbers of up to eight bytes.
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


@dataclass(frozen=True)
class Grid:
    """Where voxels are, as ITK says: numbers in the order x, y, z. spacing, origin: mm. direction: 3x3, row by row."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]
    origin: tuple[float, ...]

    def differs(self, other: Grid) -> str | None:
        """What of spacing, direction and origin differs, in words."""
        names = [name for name in ("spacing", "direction", "origin") if not near(getattr(self, name), getattr(other, name))]
        return ", ".join(names) or None


def near(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two rows of mm or of cosines are the same but for rounding."""
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=0, atol=TOLERANCE))


def times(shape: Sequence[int]) -> str:
    """A shape in a message: 240x240x155."""
    return "x".join(str(n) for n in shape)


def check_extents(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """The one place that says how large a volume may be. Both in one order of axes; spacing in mm.

    Raises:
        ValueError: for a volume that is none, or larger than any scan of a head.
    """
    if len(shape) != 3 or not all(1 <= n <= LARGEST_AXIS for n in shape):
        raise ValueError(f"shape {times(shape)}: a volume has three axes of at most {LARGEST_AXIS} voxels")
    low, high = SPACINGS_MM
    # Written so that NaN is refused.
    if len(spacing) != 3 or not all(low <= step <= high for step in spacing):
        told = ", ".join(f"{step:g}" for step in spacing)
        raise ValueError(f"spacing is {told} mm; allowed is {low:g} to {high:g} mm along each axis")
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        raise ValueError(f"shape {times(shape)}: a volume has at most {MOST_VOXELS} voxels")


@dataclass(frozen=True)
class Image:
    """A file's grid, and its voxels [z, y, x], float32.

    scaled: whether they are what is stored times a slope, plus an intercept.
    """

    grid: Grid
    voxels: np.ndarray
    scaled: bool


def read(kind: str, path: Path) -> Image:
    """What a file holds; its voxels are scaled as the header says.

    kind: what messages call it, such as t1.

    Raises:
        UserError: for anything but a whole, gzipped NIfTI file of one volume with finite numbers.
    """
    voxels, scaled = _unpack(kind, path)
    grid = _grid(kind, path)
    if grid.size != voxels.shape[::-1]:
        raise _wrong(kind, path, f"its shape may be {times(voxels.shape[::-1])} or {times(grid.size)}")
    return Image(grid, voxels, scaled)


def _unpack(kind: str, path: Path) -> tuple[np.ndarray, bool]:
    with files.open_regular(path, kind, LARGEST_FILE) as file:
        try:
            stream = Gunzip(file)
            head = stream.read(352)
            header = _header(head)
            shape, dtype, offset = _layout(header)
            needed = offset + int(np.prod(shape)) * dtype.itemsize
            # A file that packs nothing over and over would be read for ever.
            if (packed := os.fstat(file.fileno()).st_size) > needed + needed // 100 + SLACK:
                raise _Wrong(f"{needed} bytes are announced, the file has {packed}")
            content = head + stream.read(needed + SLACK - len(head))
            if len(content) < needed:
                raise _Wrong(f"{needed} bytes are announced, the file holds {len(content)}")
            # One read further for gzip's checksum, which ITK does not look at.
            if stream.read(1):
                raise _Wrong(f"{needed} bytes are announced, the file holds many more")
        except (OSError, EOFError, zlib.error) as error:
            reason = shown(getattr(error, "strerror", None) or error)
            raise UserError(f"{kind} is not a whole gzip file ({reason}): {shown(path)}") from None
        except _Wrong as error:
            raise _wrong(kind, path, str(error)) from None
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # A slope of 0 means that there is no scaling.
    scaled = bool(slope) and (slope, intercept) != (1, 0)
    # Finite or not is decided by what comes out.
    with np.errstate(all="ignore"):
        stored = np.frombuffer(content, dtype, int(np.prod(shape)), offset)
        voxels = (stored * slope + intercept if scaled else stored).astype(np.float32)
    if bad := int(np.count_nonzero(~np.isfinite(voxels))):
        raise UserError(f"{kind} has {bad} voxels that are NaN or infinite: {shown(path)}")
    if (largest := float(np.abs(voxels).max())) > LARGEST_VALUE:
        raise UserError(f"{kind} has voxels of {largest:g}, allowed is up to {LARGEST_VALUE:g}: {shown(path)}")
    return voxels.reshape(shape[::-1]), scaled


class _Wrong(Exception):
    """What is wrong with a header, in words."""


def _wrong(kind: str, path: Path, reason: str) -> UserError:
    return UserError(f"{kind} is not a NIfTI file that can be read ({reason}): {shown(path)}")


def _header(head: bytes) -> Any:
    """The fields of a NIfTI-1 header in either byte order."""
    from nibabel import Nifti1Header, Nifti2Header

    size, second = (kind.template_dtype.itemsize for kind in (Nifti1Header, Nifti2Header))
    if len(head) >= size:
        # Unchecked: nibabel's checks would mend some fields, and print.
        header = Nifti1Header(head[:size], check=False).structarr
        if int(header["sizeof_hdr"]) == size:
            return header
        if second in (int(header["sizeof_hdr"]), int(header["sizeof_hdr"].byteswap())):
            raise _Wrong("it is NIfTI-2, NIfTI-1 is needed")
    raise _Wrong("it has no header of NIfTI-1")


def _layout(header: Any) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape in the order x, y, z, type and place of the voxels."""
    magic = bytes(header["magic"]).rstrip(b"\0")[:3]
    if magic != b"n+1":
        raise _Wrong(f"its magic is {shown(repr(magic))}, one file with header and voxels has n+1")
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise _Wrong(f"it has {axes} axes")
    shape = tuple(int(n) for n in header["dim"][1 : axes + 1])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    try:
        check_extents(shape, [float(step) for step in header["pixdim"][1:4]] if not _in_other_units(header) else [1.0] * 3)
    except ValueError as error:
        raise _Wrong(str(error)) from None
    code = int(header["datatype"])
    if code not in TYPES:
        raise _Wrong(f"its voxels are of NIfTI's type {code}, allowed are whole and floating-point numbers")
    dtype = np.dtype(TYPES[code])
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise _Wrong(f"its voxels of {dtype.name} have {int(header['bitpix'])} bits")
    offset, least = float(header["vox_offset"]), header.dtype.itemsize + 4
    if not least <= offset <= least + MOST_NOTES or offset != int(offset):
        raise _Wrong(f"its voxels begin at byte {offset:g}, allowed is {least} to {least + MOST_NOTES}")
    scale = [float(header[name]) for name in ("scl_slope", "scl_inter")]
    if not np.isfinite(scale).all():
        raise _Wrong(f"its voxels are scaled by {scale[0]:g} and {scale[1]:g}")
    matrices = {"qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
                "sform_code": ("srow_x", "srow_y", "srow_z")}  # fmt: skip
    for matrix, parts in matrices.items():
        if int(header[matrix]) > 0 and not all(np.isfinite(header[part]).all() for part in parts):
            raise _Wrong(f"what {matrix} stands for is not finite")
    return shape, dtype.newbyteorder(header.dtype["sizeof_hdr"].byteorder), int(offset)


def _in_other_units(header: Any) -> bool:
    """Whether spacing is in metres or micrometres, which ITK turns into mm: its word is checked."""
    return int(header["xyzt_units"]) & 7 in (1, 3)


def _reader(path: Path) -> SimpleITK.ImageFileReader:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # ITK would end the process.
        raise UserError(f"its name is not UTF-8, which ITK needs: {shown(path)}; rename it") from None
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    return reader


def _grid(kind: str, path: Path) -> Grid:
    """What ITK makes of the header, which is what nnU-Net works with."""
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _wrong(kind, path, f"ITK: {shown(' '.join(str(error).split())[-120:])}") from None
    if reader.GetNumberOfComponents() != 1:
        raise UserError(f"{kind} has {reader.GetNumberOfComponents()} values a voxel, one is allowed: {shown(path)}")
    size = tuple(reader.GetSize())
    if len(size) != 3:
        raise _wrong(kind, path, f"ITK finds {len(size)} axes")
    grid = Grid(size, tuple(reader.GetSpacing()), tuple(reader.GetDirection()), tuple(reader.GetOrigin()))
    try:
        check_extents(grid.size, grid.spacing)
        check_directions(grid.direction, grid.origin)
    except ValueError as error:
        raise _wrong(kind, path, str(error)) from None
    return grid


def check_directions(direction: Sequence[float], origin: Sequence[float]) -> None:
    """direction: 3x3 cosines, row by row; origin: mm.

    Raises:
        ValueError: for axes that do not stand upright on each other, and an origin that is far from any scanner.
    """
    matrix = np.array(direction, float).reshape(3, 3)
    if not near(tuple((matrix @ matrix.T).ravel()), tuple(np.eye(3).ravel())):
        raise ValueError("its axes are not at right angles")
    if len(origin) != 3 or not all(abs(place) <= 1e6 for place in origin):
        raise ValueError(f"its origin is {', '.join(f'{place:g}' for place in origin)} mm, allowed is up to 1 km")
