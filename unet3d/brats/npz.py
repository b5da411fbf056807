"""Arrays of .npz files, which may be damaged: what a header announces is compared with a limit before it is read."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedReader

import numpy as np

# What zipfile and numpy raise for a damaged file.
BROKEN = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, RecursionError, RuntimeError,
    OverflowError, SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
MOST_AXES = 4
# Of a zip file's local header: its length, and where in it are the lengths of the name and of what follows it.
LOCAL_HEADER, LENGTHS_AT = 30, 26


@dataclass(frozen=True)
class Place:
    """Where the numbers of an array lie in a file one after the other, from `offset` bytes on."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


def read(archive: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """An array of an .npz, of at most `limit` bytes; no pickle is read.

    Raises whatever of BROKEN the file is; ValueError for more bytes, or other than announced.
    """
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"version {version} of numpy's format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if len(shape) > MOST_AXES or math.prod(shape) * dtype.itemsize > limit:
            raise ValueError(f"{name} is {dtype} {shape}")
    with archive.open(f"{name}.npy") as member:
        array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
        # The end is read too: zipfile looks at the checksum there.
        if member.read(1):
            raise ValueError(f"{name} holds more than it says")
    return array


def place(archive: zipfile.ZipFile, name: str) -> Place | None:
    """Where an array that `read` has read lies in the archive's file; None where it is compressed or in another order."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        np.lib.format.read_magic(member)
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(member)
        within = member.tell()
    if info.compress_type != zipfile.ZIP_STORED or in_columns or archive.fp is None:
        return None
    archive.fp.seek(info.header_offset + LENGTHS_AT)
    lengths = struct.unpack("<HH", archive.fp.read(4))
    return Place(info.header_offset + LOCAL_HEADER + sum(lengths) + within, shape, dtype)


def read_place(file: BufferedReader, where: Place) -> np.ndarray:
    """The array at a place of an open file. Raises EOFError where the file is shorter."""
    array: np.ndarray = np.empty(where.shape, where.dtype)
    file.seek(where.offset)
    if file.readinto(array.data.cast("B")) != array.nbytes:
        raise EOFError
    return array
