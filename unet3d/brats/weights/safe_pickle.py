"""Read pickles written by nnU-Net without running code that somebody put into them.

A pickle may name any importable function and have it called. Only the few constructors that plain data and numpy
arrays need are allowed here; a file that names anything else is refused with that name.
"""

import codecs
import io
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from unet3d.errors import UserError

NUMBERS = (
    np.bool_,
    np.int8,
    np.int16,
    np.int32,
    np.int64,
    np.uint8,
    np.uint16,
    np.uint32,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
    np.complex64,
    np.complex128,
)

MOST_OF_A_RANGE = 1_000_000


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 calls to turn text back into bytes; any other codec is none of a data file's business."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding!r} is not allowed, only latin1")
    return codecs.encode(text, "latin1")


def _range(*bounds: int) -> range:
    """A range of ten letters would fill any memory as a list."""
    numbers = range(*bounds)
    if abs(numbers.stop - numbers.start) > MOST_OF_A_RANGE:
        raise pickle.UnpicklingError(
            f"a range over {numbers.stop - numbers.start} numbers, at most {MOST_OF_A_RANGE} are allowed"
        )
    return numbers


def numpy_globals() -> dict[str, object]:
    """Names under which numpy 1 and numpy 2 pickle arrays, scalars and dtypes -> what they stand for here."""
    from numpy._core import multiarray, numeric

    allowed: dict[str, object] = {"numpy.ndarray": np.ndarray, "numpy.dtype": np.dtype}
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray._reconstruct"] = multiarray._reconstruct
        allowed[f"{core}.multiarray.scalar"] = multiarray.scalar
        allowed[f"{core}.numeric._frombuffer"] = numeric._frombuffer  # type: ignore[attr-defined]
    allowed |= {f"numpy.{kind.__name__}": kind for kind in (*NUMBERS, np.str_, np.bytes_)}
    allowed |= {"numpy.bool_": np.bool_, "numpy.bool": np.bool_}
    return allowed


def allowed_globals() -> dict[str, object]:
    """Every global that a pickle may ask for, by the name it asks with."""
    plain = {
        "collections.OrderedDict": OrderedDict,
        "collections.defaultdict": defaultdict,
        "_codecs.encode": _encode_latin1,
    }
    plain |= {
        f"builtins.{kind.__name__}": kind
        for kind in (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, slice)
    }
    plain["builtins.range"] = _range
    return plain | numpy_globals()


class Refused(pickle.UnpicklingError):
    """The pickle asked for a global that is not on the list."""

    def __init__(self, name: str):
        self.name = name
        super().__init__(name)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")  # pickles of Python 2 hold numpy data as byte strings
        self._allowed = allowed_globals()

    def find_class(self, module: str, name: str) -> object:
        module = "builtins" if module == "__builtin__" else module  # the name that protocols 0 to 2 use
        try:
            return self._allowed[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("persistent objects are not allowed")


def load_file(file: BinaryIO, name: str) -> object:
    """Unpickle plain data from an open file; `name` is what messages call it.

    Raises UserError naming the forbidden global, or saying that the file is no complete pickle.
    """
    try:
        return _Unpickler(file).load()
    except Refused as refused:
        raise UserError(
            f"{name}: refused, this pickle asks for {refused.name!r}; only plain data and numpy arrays are allowed. "
            "Use a file from a source you trust that holds nothing else."
        ) from None
    except MemoryError:
        raise UserError(f"{name}: unpickling needs more memory than there is; the file is not what it should be.") from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle may raise anything, as IndexError or UnicodeDecodeError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: not a readable pickle ({reason}); get a fresh copy of the file.") from None


def loads(data: bytes, name: str) -> object:
    """Unpickle plain data from memory. Raises UserError as `load_file` does."""
    return load_file(io.BytesIO(data), name)


def load(path: str | Path) -> object:
    """Unpickle plain data from a file on disk. Raises UserError, also when the file cannot be opened."""
    try:
        with open(path, "rb") as file:
            return load_file(file, str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions.") from None
