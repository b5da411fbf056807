"""Checkpoints as nnU-Net 1.7.1 writes them (`*.model`, by torch.save), read without running code from them.

PyTorch's own reader makes whatever tensors a file describes: sparse, quantised, of any size. Here a file is an archive
of plain pieces: what it says of its tensors is compared with the network before a tensor is made. Both of torch.save's
formats are read: a zip, and the one before PyTorch 1.6, which is five pickles and then the numbers.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from unet3d.brats.weights import safe_pickle
from unet3d.errors import UserError, shown

if TYPE_CHECKING:
    from torch import Tensor

# By PyTorch's name of the storage. nnU-Net writes fp32 only; fp16 turns into fp32 without loss, as in copies made for sharing.
FLOATS = {"FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2)}
# Bytes of a number in each kind of storage that torch.save knows by name; others are skipped over with these.
SIZES = {
    **{kind: size for kind, (_, size) in FLOATS.items()},
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage", "QInt8Storage", "QUInt8Storage"), 1),
    **dict.fromkeys(("ShortStorage", "BFloat16Storage"), 2),
    **dict.fromkeys(("IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("LongStorage", "DoubleStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MOST_AXES = 8


class Kind(str):
    """PyTorch's name of a storage, such as FloatStorage."""


@dataclass(frozen=True)
class Storage:
    """Numbers in a file, of which tensors are views: how many, and the key that they have there."""

    kind: Kind
    key: str
    count: int


@dataclass(frozen=True)
class Parameter:
    """What a file says of a tensor; `storage` is read from the file by `read`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    read: Callable[[Storage], bytes] = field(repr=False)


class _Unpickler(safe_pickle.Unpickler):
    """Plain data, and descriptions of tensors in the place of tensors."""

    def __init__(self, file: io.BytesIO, read: Callable[[Storage], bytes]):
        super().__init__(file)
        self._read = read
        self.storages: dict[str, Storage] = {}
        self.allowed |= {
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
        }

    def find_class(self, module: str, name: str) -> object:
        return Kind(name) if module == "torch" and name.endswith("Storage") else super().find_class(module, name)

    def persistent_load(self, pid: object) -> Storage:
        match pid:
            case ("storage", Kind() as kind, str() as key, str(), int() as count, *rest) if rest in ([], [None]) and count >= 0:
                return self.storages.setdefault(key, Storage(kind, key, count))
        raise pickle.UnpicklingError("what is no storage of numbers is kept as one")

    def call(self, function: Any, arguments: tuple) -> object:
        return function(*arguments) if function in (self._tensor, self._parameter) else super().call(function, arguments)

    def _tensor(self, storage: object, offset: object, shape: object, stride: object, *_: object) -> Parameter:
        sizes = (shape, stride)
        if not isinstance(storage, Storage) or not isinstance(offset, int) or not all(isinstance(s, tuple) for s in sizes):
            raise pickle.UnpicklingError("a tensor that is none")
        parameter = Parameter(storage, offset, tuple(shape), tuple(stride), self._read)  # type: ignore[arg-type]
        if len(parameter.shape) != len(parameter.stride) or len(parameter.shape) > MOST_AXES:
            raise pickle.UnpicklingError(f"a tensor of {len(parameter.shape)} axes and {len(parameter.stride)} strides")
        if not all(isinstance(n, int) and n >= 0 for n in (offset, *parameter.shape, *parameter.stride)):
            raise pickle.UnpicklingError("a tensor of sizes that are no whole numbers")
        return parameter

    def _parameter(self, data: object, *_: object) -> object:
        return data


def read(data: bytes, name: str) -> dict[str, Parameter]:
    """What a checkpoint's bytes say of its parameters; `tensors` makes them.

    A `module.` in front of every name, left by nn.DataParallel, is taken off as nnU-Net does.
    Raises UserError when the file asks for a global that is not allowed (the message has its name), is damaged, or holds no
    'state_dict' of dense tensors of fp32 or fp16.
    """
    content = safe_pickle.read(lambda: (_read_zip if data.startswith(b"PK") else _read_legacy)(data), name)
    state_dict = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(value, Parameter) for value in state_dict.values()):
        raise UserError(f"{shown(name)}: holds no 'state_dict' of tensors; a checkpoint of nnU-Net's trainer is needed.")
    parameters: dict[str, Parameter] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or key.removeprefix("module.") in parameters:
            raise UserError(f"{shown(name)}: {shown(repr(key))} is no name of a parameter, or one that is there twice.")
        if problem := _problem(value):
            raise UserError(f"{shown(name)}: {shown(key)} {problem}; get a fresh copy of the checkpoint.")
        parameters[key.removeprefix("module.")] = value
    return parameters


def _problem(parameter: Parameter) -> str | None:
    """What makes this no dense tensor of floating-point numbers."""
    if parameter.storage.kind not in FLOATS:
        allowed = " and ".join(f"{name}s of {kind}" for name, (kind, _) in FLOATS.items())
        return f"is kept as {shown(parameter.storage.kind)}, allowed are {allowed}"
    least = 1
    for stride, extent in sorted(zip(parameter.stride, parameter.shape, strict=True)):
        if extent > 1 and stride < least:
            return "shows the same numbers in several places"
        least = max(least, stride * extent)
    last = parameter.offset + sum((n - 1) * s for n, s in zip(parameter.shape, parameter.stride, strict=True))
    if prod(parameter.shape) and last >= parameter.storage.count:
        return "reaches beyond the numbers in the file"
    return None


def tensors(parameters: Mapping[str, Parameter], name: str) -> dict[str, Tensor]:
    """The parameters themselves, fp32 on the CPU.

    Raises UserError where the file lacks their numbers, and for values that are not finite.
    """
    import torch

    made: dict[str, Tensor] = {}
    for key, parameter in parameters.items():
        kind, size = FLOATS[parameter.storage.kind]
        content = safe_pickle.read(partial(parameter.read, parameter.storage), name)
        if len(content) != parameter.storage.count * size:
            raise UserError(f"{shown(name)}: {shown(key)} is cut off; get a fresh copy of the checkpoint.")
        if not content:
            made[key] = torch.empty(parameter.shape)
            continue
        numbers = torch.frombuffer(bytearray(content), dtype=getattr(torch, kind))
        # Of an axis with one entry the stride means nothing and may be any number.
        stride = [step if extent > 1 else 1 for step, extent in zip(parameter.stride, parameter.shape, strict=True)]
        tensor = numbers.as_strided(parameter.shape, stride, parameter.offset).float().contiguous()
        if not torch.isfinite(tensor).all():
            raise UserError(f"{shown(name)}: {shown(key)} holds NaN or infinite values; get a fresh copy of the checkpoint.")
        made[key] = tensor
    return made


def _read_zip(data: bytes) -> object:
    archive = zipfile.ZipFile(io.BytesIO(data))
    # torch.save does not compress: what is announced is what the file has.
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(data):
            raise pickle.UnpicklingError("a compressed piece, which torch.save does not write")
    roots = [
        name.removesuffix("/data.pkl") for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise pickle.UnpicklingError("no data.pkl as torch.save writes it")
    (root,) = roots
    if f"{root}/byteorder" in archive.namelist() and archive.read(f"{root}/byteorder") != b"little":
        raise pickle.UnpicklingError("written on a machine of another byte order")

    def numbers(storage: Storage) -> bytes:
        return archive.read(f"{root}/data/{storage.key}")

    return _Unpickler(io.BytesIO(archive.read(f"{root}/data.pkl")), numbers).load()


def _read_legacy(data: bytes) -> object:
    file, places = io.BytesIO(data), dict[str, tuple[int, int]]()

    def plain() -> object:
        return safe_pickle.Unpickler(file).load()

    def numbers(storage: Storage) -> bytes:
        place, count = places[storage.key]
        return data[place : place + storage.count * FLOATS[storage.kind][1]] if count == storage.count else b""

    if plain() != LEGACY_MAGIC or plain() != LEGACY_PROTOCOL:
        raise pickle.UnpicklingError("neither of the formats of torch.save")
    plain()  # byte order and sizes of the machine, which mean nothing since PyTorch 0.4
    unpickler = _Unpickler(file, numbers)
    content, keys = unpickler.load(), plain()
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in unpickler.storages for key in keys):
        raise pickle.UnpicklingError("no list of its storages")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        places[key] = file.tell(), count
        size = SIZES.get(unpickler.storages[key].kind)
        if size is None or not 0 <= count <= len(data):
            raise pickle.UnpicklingError(f"numbers of an unknown kind, {unpickler.storages[key].kind}, or too many of them")
        file.seek(count * size, io.SEEK_CUR)
    return content
