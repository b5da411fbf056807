"""Arrays of .npz files, which may be damaged: what a header announces is compared with a limit before it is read."""

from __future__ import annotations

import math
import zipfile
import zlib

import numpy as np

# What zipfile and numpy raise for a damaged file.
BROKEN = (
    OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, RecursionError, RuntimeError,
    OverflowError, SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
MOST_AXES = 4


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
