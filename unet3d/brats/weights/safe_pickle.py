"""Read pickles written by nnU-Net without running code that somebody put into them.

A pickle may name any importable function and have it called. Only the few constructors that plain data and numpy
arrays need are allowed here, called as pickles of such data call them; a file that names anything else is refused with
that name. Time and memory stay in proportion to the file's size: what it refers to twice is not copied twice, and only
plain values are hashed.
"""

import codecs
import io
import pickle
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unet3d import files
from unet3d.errors import UserError, shown

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
PLAIN = (str, bytes, bytearray, int, float, complex, type(None), type, np.dtype, np.generic)
CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict, defaultdict)


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


def _check_dtype(dtype: np.dtype, state: object) -> None:
    """A state may change a type's byte order alone: with the flags of another one numpy takes numbers for addresses."""
    own = dtype.__reduce__()[2]
    if not isinstance(state, tuple) or (state[:1], state[2:]) != (own[:1], own[2:]) or state[1] not in ("<", ">", "=", "|"):
        raise pickle.UnpicklingError(f"a data type {dtype.name} with the state of another one")


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


# The interpreter in Python, which the standard library has beside the one in C; typeshed does not know its methods.
_Interpreter: Any = pickle._Unpickler


class Unpickler(_Interpreter):
    """The interpreter of pickles, in Python: each call that a pickle asks for goes through `call` here."""

    dispatch: ClassVar[dict[int, Callable]] = dict(_Interpreter.dispatch)

    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="latin1")  # pickles of Python 2 hold numpy data as byte strings
        self.allowed = allowed_globals()
        # Values that calls may still copy. Written by nnU-Net, each of them stands in the file for itself.
        self._left = file.getbuffer().nbytes + 1000

    def find_class(self, module: str, name: str) -> object:
        module = "builtins" if module == "__builtin__" else module  # the name that protocols 0 to 2 use
        try:
            return self.allowed[f"{module}.{name}"]
        except KeyError:
            raise Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("persistent objects are not allowed")

    def call(self, function: Any, arguments: tuple) -> object:
        """What a pickle gets for a call of one of the allowed globals."""
        from numpy._core import multiarray

        if function in CONTAINERS:
            self._check_container(function, arguments)
        elif function is multiarray._reconstruct:
            if arguments[:2] != (np.ndarray, (0,)):
                raise pickle.UnpicklingError("an array that is not made as numpy makes one")
        elif function is np.ndarray or not all(isinstance(value, (*PLAIN, slice)) for value in arguments[:2]):
            raise pickle.UnpicklingError(f"{getattr(function, '__name__', function)} is called with other than plain values")
        elif function in (bytes, bytearray, str, np.bytes_, np.str_) and any(isinstance(value, int) for value in arguments):
            raise pickle.UnpicklingError(f"{function.__name__} is called with a number")
        else:
            self._spend(sum(len(value) for value in arguments if isinstance(value, str | bytes | bytearray)))
        return function(*arguments)

    def _check_container(self, function: type, arguments: tuple) -> None:
        for value in arguments:
            if isinstance(value, (list, tuple, set, frozenset, dict)):
                self._spend(len(value))
                if function in (set, frozenset):
                    check_keys(value)
                elif function not in (list, tuple) and not isinstance(value, dict):
                    check_keys(item[0] for item in value)
            elif value is not None and value not in CONTAINERS:
                raise pickle.UnpicklingError("a container is made of what is none")

    def _spend(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise pickle.UnpicklingError("it copies the same values again and again")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError("a call without a tuple of arguments")
        self.stack[-1] = self.call(function, arguments)

    def load_build(self) -> None:
        state, instance = self.stack[-1], self.stack[-2]
        if isinstance(instance, np.ndarray):
            shape, content = state[-4], state[-1]
            count = 1
            for extent in shape:
                count *= int(extent)
            if isinstance(content, list) and count != len(content):
                raise pickle.UnpicklingError(f"an array of {count} values with {len(content)} of them")
            self._spend(len(content))
        elif isinstance(instance, OrderedDict):
            # PyTorch's note of its modules' versions, an attribute.
            if not isinstance(self.stack.pop(), dict):
                raise pickle.UnpicklingError("attributes that are no dict")
            return
        elif isinstance(instance, np.dtype):
            _check_dtype(instance, state)
        else:
            raise pickle.UnpicklingError("an object with a state, where plain data is expected")
        super().load_build()

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1], self.stack[-3], dict)
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self.stack[::2], self.metastack[-1][-1], dict)
        super().load_setitems()

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        check_keys(self.stack, self.metastack[-1][-1], set)
        super().load_additems()

    def load_frozenset(self) -> None:
        check_keys(self.stack)
        super().load_frozenset()

    def load_append(self) -> None:
        check_keys((), self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        check_keys((), self.metastack[-1][-1], list)
        super().load_appends()

    def load_other(self) -> None:
        raise pickle.UnpicklingError("an instance of a class, where plain data is expected")

    for name in ("REDUCE", "BUILD", "SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET", "APPEND", "APPENDS"):
        dispatch[getattr(pickle, name)[0]] = locals()[f"load_{name.lower()}"]
    del name
    dispatch.update(dict.fromkeys((pickle.INST[0], pickle.OBJ[0], pickle.NEWOBJ[0], pickle.NEWOBJ_EX[0]), load_other))


def check_keys(keys: Iterable[object], container: object = None, kind: type | None = None) -> None:
    """See that values may be hashed: one that holds others may hold them many times over.

    container: what they are put into; kind: what it must be.

    Raises:
        pickle.UnpicklingError: when they are not plain, nor tuples of what is plain.
    """
    if kind is not None and not isinstance(container, kind):
        raise pickle.UnpicklingError(f"what is no {kind.__name__} is filled as one")
    for key in keys:
        if not all(isinstance(value, PLAIN) for value in (key if isinstance(key, tuple) else (key,))):
            raise pickle.UnpicklingError("a key that is neither text nor a number")


def read(load: Callable[[], Any], name: str) -> Any:
    """What `load` gives, the load of an `Unpickler`; `name` is what messages call the file.

    Raises UserError naming the forbidden global, or saying that the file is no complete pickle.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about the pickles of its older versions
            return load()
    except UserError:
        raise
    except Refused as refused:
        raise UserError(
            f"{shown(name)}: refused, it asks for {shown(repr(refused.name))}; only plain data, tensors and numpy arrays "
            "are allowed. Use a file from a source you trust that holds nothing else."
        ) from None
    except MemoryError:
        raise UserError(
            f"{shown(name)}: reading it needs more memory than there is; the file is not what it should be."
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle may raise anything, as IndexError or UnicodeDecodeError
        reason = shown(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{shown(name)}: not a readable pickle ({reason}); get a fresh copy of the file.") from None


def loads(data: bytes, name: str) -> object:
    """Unpickle plain data from memory. Raises UserError as `read` does."""
    return read(lambda: Unpickler(io.BytesIO(data)).load(), name)


def load(path: str | Path, limit: int) -> object:
    """Unpickle plain data from a file on disk of at most `limit` bytes.

    Raises UserError as `loads` does, also when the file cannot be opened, is larger or no regular one.
    """
    return loads(files.read_regular(path, limit, "pickle"), str(path))
