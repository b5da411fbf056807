"""Which layer of the network an operator belongs to, what it computes and moves: from the tensors that it is called with.

An operator that takes a convolution's weight belongs to its layer; one that takes none, such as a normalisation or a
concatenation, belongs to the layer that made its latest input. No form of the network has to say anything for it. Where
an input's origin is not known the layer is not either.

FLOP are those of the layer's convolution by its geometry (`unet3d.network.flops`), for the operators that take its weight.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf, prod
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unet3d.network.flops import Convolution, convolution_flop, of

INPUT = "input"
# Parameters of our forms; nnU-Net's own are known by their modules.
OURS = re.compile(r"((?:encoder|decoder)\.\d+\.\d+|upsamplings\.\d+|head)(?:[._]|$)")


@dataclass
class Call:
    """One operator that was called.

    layer: several are joined by "+". products: the layers whose FLOP it computes, alone or with other operators. flop: of a
    convolution whose layer is not known.
    """

    name: str
    layer: str | None
    products: tuple[str, ...]
    shapes: list[list[int]]
    flop: int
    bytes: int
    ms: float


def names(module: torch.nn.Module, passed: Iterable[Convolution]) -> dict[str, str]:
    """The layer of each parameter and buffer, by its name in the module. passed: the network's convolutions."""
    # A block's normalisation is beside its convolution.
    owners = [(conv.name.removesuffix("conv"), conv.layer) for conv in passed]
    found = {}
    for name, _ in (*module.named_parameters(), *module.named_buffers()):
        if ours := OURS.match(name):
            found[name] = ours[1]
        elif layers := [layer for owner, layer in owners if name.startswith(f"{owner.removesuffix('.')}.")]:
            found[name] = layers[0]
    return found


class Watch(TorchDispatchMode):
    """Records each operator that is called while it is entered, also inside of traces and compiled code.

    A compiled network is seen as it is where this PyTorch lets modes ask for that (`sees_compiled`); others run it
    operator by operator while a mode is entered.
    """

    sees_compiled = hasattr(TorchDispatchMode, "ignore_compile_internals")

    def __init__(
        self, module: torch.nn.Module, passed: Sequence[Convolution], volumes: torch.Tensor, mark: Callable[[int], Any] | None
    ):
        """passed: the network's convolutions. volumes: what the network is given [N, 4, D, H, W]. mark: a context to call
        the operator of this number in."""
        super().__init__()
        self.calls: list[Call] = []
        # Of operators by their numbers among `calls`, which has none for what only looks at a tensor in another way.
        self.places: dict[int, int] = {}
        self._numbers = count()
        flop = [layer.flop for layer in of(passed, tuple(volumes.shape))]
        self.flop_of = {conv.layer: work for conv, work in zip(passed, flop, strict=True)}
        self._mark = mark or (lambda _: contextlib.nullcontext())
        # A convolution's weight has a byte for each of its numbers at least, in whatever type and order it is packed; what
        # belongs to a normalisation is smaller.
        self._least = {conv.layer: prod(conv.weight) for conv in passed}
        layers = names(module, passed)
        self._weights = {
            _start(tensor): layers[name]
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
            if name in layers and tensor.numel() and _start(tensor)
        }
        # By their memory, the layers that made the tensors, with numbers that count up.
        self._made: dict[int, tuple[int, str | None]] = {_memory(volumes): (0, INPUT)}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        read = _tensors((args, kwargs or {}))
        layer, products, weights_only = self._belongs(func._schema.name, read)
        number = next(self._numbers)
        with self._mark(number):
            start = perf_counter()
            result = func(*args, **(kwargs or {}))
            seconds = perf_counter() - start
        written = _tensors(result)
        memory = {_memory(tensor) for tensor in read}
        fresh = [tensor for tensor in written if _memory(tensor) not in memory]
        for tensor in fresh:
            # Whatever was there is gone. What is made of weights alone is a weight in another type or layout.
            self._weights.pop(_start(tensor), None)
            if weights_only and layer is not None and _start(tensor):
                self._weights[_start(tensor)] = layer
        changes = _changed(func, args, kwargs or {})
        for tensor in (*fresh, *changes):
            # What has no place of its own is not known again.
            self._made[_memory(tensor) or -1] = (len(self.calls) + 1, layer)
        if fresh or changes:
            self.places[number] = len(self.calls)
            unknown = not products and _convolves(func._schema.name)
            self.calls.append(
                Call(
                    name=func._schema.name,
                    layer=layer,
                    products=products,
                    shapes=[list(tensor.shape) for tensor in read],
                    flop=_convolution(read, written) if unknown else 0,
                    bytes=sum(_bytes(tensor) for tensor in (*read, *fresh, *changes)),
                    ms=1e3 * seconds,
                )
            )
        return result

    def _belongs(self, name: str, read: Sequence[torch.Tensor]) -> tuple[str | None, tuple[str, ...], bool]:
        """The layer of an operator with these inputs, the layers whose convolutions it computes, and whether its inputs are
        all weights."""
        weights = [(_bytes(tensor), layer) for tensor in read if (layer := self._weights.get(_start(tensor)))]
        if weights:
            if len(weights) == len(read):
                return max(weights)[1], (), True
            found = {layer for size, layer in weights if size >= self._least.get(layer, inf)}
            if products := tuple(layer for layer in self._least if layer in found):
                return "+".join(products), products, False
        if _convolves(name):  # with a weight that a compiler has made
            return None, (), False
        # Parameters of a normalisation do not tell: where those of several layers are equal a trace keeps one of them.
        made = [self._made.get(_memory(tensor)) for tensor in read if tensor.dim() and _start(tensor) not in self._weights]
        known = [origin for origin in made if origin is not None]
        return (max(known)[1] if known and len(known) == len(made) else None), (), False


def _convolves(name: str) -> bool:
    return "conv" in name


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor) and leaf.numel()]


def _memory(tensor: torch.Tensor) -> int:
    """Where its storage begins; 0 for one that a library has packed."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _start(tensor: torch.Tensor) -> int:
    """Where its first number is; 0 for one that a library has packed."""
    return tensor.data_ptr() if tensor.layout == torch.strided else 0


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an operator writes to by its schema, among its arguments."""
    changed: list[torch.Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed += _tensors(kwargs.get(argument.name, args[place] if place < len(args) else None))
    return changed


def _convolution(read: Sequence[torch.Tensor], written: Sequence[torch.Tensor]) -> int:
    """FLOP of a library's convolution of volumes by the tensors that it was called with; 0 where its weight is packed."""
    shapes = [tuple(tensor.shape) for tensor in read if tensor.dim() == 5]
    results = [tuple(tensor.shape) for tensor in written if tensor.dim() == 5]
    if len(shapes) < 2 or not results:
        return 0
    volume, weight, result = *shapes[:2], results[0]
    channels = (volume[1], result[1])
    transposed = weight[:2] == channels and prod(result[2:]) > prod(volume[2:])
    return convolution_flop(weight, volume, result, transposed) if transposed or weight[:2] == channels[::-1] else 0
