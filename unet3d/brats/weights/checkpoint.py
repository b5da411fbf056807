"""Checkpoints as nnU-Net 1.7.1 writes them (`*.model`, by torch.save), read by torch.load(weights_only=True).

It runs no code from a file, and yet a file of a megabyte brings it down. A dictionary's key of 10^6 nested tuples
(`}` `)` `\\x85`... `K\\x01` `s`) ends PyTorch 2.13 by SIGSEGV. Forty tuples, each of which holds the one before twice, keep
it busy for years. PyTorch 2.6 reads beyond the end of a record that is shorter than the pickle says. So
`safe_pickle.Unpickler` goes through a checkpoint's pickles first, with a placeholder for each tensor.
Both of torch.save's formats are read: a zip, and the one before PyTorch 1.6, which is five pickles and then the numbers.
"""

from __future__ import annotations

import enum
import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d.brats.weights import safe_pickle
from unet3d.errors import UserError, shown

if TYPE_CHECKING:
    from torch import Tensor

# nnU-Net writes fp32 only; fp16 turns into fp32 without loss, as in copies made for sharing.
DTYPES = ("float32", "float16")
# Of all that is no number of a tensor; a thousand epochs of training curves have some 0.2 MB. PyTorch takes up to 10 s
# for a megabyte.
MOST_PICKLED_BYTES = 2**22
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


class Placeholder(enum.Enum):
    """What stands for what torch.load will make."""

    STORAGE = enum.auto()
    TENSOR = enum.auto()


class StorageType(str):
    """PyTorch's name of a storage, such as FloatStorage."""

    def itemsize(self) -> int:
        import torch

        return getattr(torch, self).dtype.itemsize


class _Checker(safe_pickle.Unpickler):
    """Goes through plain data and dense tensors, and makes no tensor.

    sizes: bytes of each storage; where they are not known they are at most `limit`.
    """

    def __init__(self, file: io.BytesIO, limit: int, sizes: Mapping[str, int] | None = None):
        super().__init__(file)
        self._limit, self._sizes = limit, sizes
        self.keys: set[str] = set()
        self.allowed |= {"torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": _parameter}

    def find_class(self, module: str, name: str) -> object:
        return StorageType(name) if module == "torch" and name.endswith("Storage") else super().find_class(module, name)

    def persistent_load(self, pid: object) -> Placeholder:
        match pid:
            case ("storage", StorageType() as kind, str() as key, str(), int() as count, *rest) if rest in ([], [None]):
                size = count * kind.itemsize()
                if not 0 <= size <= self._limit or (self._sizes is not None and self._sizes.get(key) != size):
                    raise pickle.UnpicklingError(f"the numbers of storage {key} are cut off")
                self.keys.add(key)
                return Placeholder.STORAGE
        raise pickle.UnpicklingError("what is no storage of numbers is kept as one")

    def call(self, function: object, arguments: tuple) -> object:
        if function is _tensor or function is _parameter:
            return function(*arguments)
        return super().call(function, arguments)


def _tensor(*arguments: object) -> Placeholder:
    match arguments:
        case (Placeholder.STORAGE, int(), tuple() as shape, tuple() as stride, bool(), OrderedDict() as hooks) if not hooks:
            if all(isinstance(n, int) for n in (*shape, *stride)):
                return Placeholder.TENSOR
    raise pickle.UnpicklingError("a tensor that is none")


def _parameter(*arguments: object) -> Placeholder:
    match arguments:
        case (Placeholder.TENSOR, bool(), OrderedDict() as hooks) if not hooks:
            return Placeholder.TENSOR
    raise pickle.UnpicklingError("a parameter that is none")


def read(data: bytes, name: str) -> dict[str, Tensor]:
    """The parameters in a checkpoint's bytes as they are stored, on the CPU; `tensors` makes fp32 of them.

    A `module.` in front of every name, left by nn.DataParallel, is taken off as nnU-Net does.
    Raises UserError when the file asks for a global that is not allowed (the message has its name), is damaged, or holds no
    'state_dict' of dense tensors of fp32 or fp16.
    """
    content = safe_pickle.read(lambda: _load(data), name)
    state_dict = content.get("state_dict") if isinstance(content, dict) else None

    import torch

    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise UserError(f"{shown(name)}: holds no 'state_dict' of tensors; a checkpoint of nnU-Net's trainer is needed.")
    parameters: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or key.removeprefix("module.") in parameters:
            raise UserError(f"{shown(name)}: {shown(repr(key))} is no name of a parameter, or one that is there twice.")
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in DTYPES:
            raise UserError(f"{shown(name)}: {shown(key)} is {kind}, allowed are {' and '.join(DTYPES)}.")
        if _overlaps(value):
            raise UserError(
                f"{shown(name)}: {shown(key)} shows the same numbers in several places; get a fresh copy of the checkpoint."
            )
        parameters[key.removeprefix("module.")] = value.detach()
    return parameters


def _overlaps(value: Tensor) -> bool:
    least = 1
    for stride, extent in sorted(zip(value.stride(), value.shape, strict=True)):
        if extent > 1 and stride < least:
            return True
        least = max(least, stride * extent)
    return False


def tensors(parameters: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The parameters in fp32, contiguous. Raises UserError for values that are not finite."""
    made = {key: value.float().contiguous() for key, value in parameters.items()}
    for key, value in made.items():
        if not value.isfinite().all():
            raise UserError(f"{shown(name)}: {shown(key)} holds NaN or infinite values; get a fresh copy of the checkpoint.")
    return made


def _load(data: bytes) -> object:
    import torch

    if data.startswith(b"PK"):
        data = _checked_zip(data)
    else:
        _check_legacy(data)
    # nnU-Net keeps its training curves as numpy scalars; their dtypes are rebuilt through a class of each dtype.
    dtypes = {type(np.dtype(kind)) for kind in safe_pickle.NUMBERS}
    allowed: list[Any] = [(value, name) for name, value in safe_pickle.numpy_globals().items()]
    with torch.serialization.safe_globals([*allowed, *dtypes]):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _checked_zip(data: bytes) -> bytes:
    """The same archive written anew: PyTorch's reader of zips meets only what was looked at here."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # torch.save does not compress: what is announced is what the file has.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise pickle.UnpicklingError("a compressed piece, which torch.save does not write")
        if sum(member.file_size for member in members) > len(data):
            raise pickle.UnpicklingError("its pieces are larger than the file")
        roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise pickle.UnpicklingError("no data.pkl as torch.save writes it")
        folder = f"{roots[0]}/"
        pieces = {m.filename.removeprefix(folder): m for m in members if m.filename.startswith(folder)}
        if "byteorder" in pieces and archive.read(pieces["byteorder"]) != b"little":
            raise pickle.UnpicklingError("written on a machine of another byte order")
        sizes = {name.removeprefix("data/"): m.file_size for name, m in pieces.items() if name.startswith("data/")}
        pickled = archive.read(pieces["data.pkl"])[:MOST_PICKLED_BYTES]
        _Checker(io.BytesIO(pickled), len(data), sizes).load()
        anew = io.BytesIO()
        with zipfile.ZipFile(anew, "w") as checked:
            for name, member in pieces.items():
                checked.writestr(f"archive/{name}", archive.read(member))
    return anew.getvalue()


def _check_legacy(data: bytes) -> None:
    file = io.BytesIO(data[:MOST_PICKLED_BYTES])

    def plain() -> object:
        return safe_pickle.Unpickler(file).load()

    if plain() != LEGACY_MAGIC or plain() != LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("neither of the formats of torch.save")
    plain()  # byte order and sizes of the machine, which mean nothing since PyTorch 0.4
    checker = _Checker(file, len(data))
    checker.load()
    keys = plain()
    # PyTorch leaves a storage that is not listed as the memory was.
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != checker.keys:
        raise pickle.UnpicklingError("no list of its storages")
