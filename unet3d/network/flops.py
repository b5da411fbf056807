"""What one forward pass computes and moves, counted from the network's modules. Importing this imports nothing heavy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def convolution_flop(weight: Sequence[int], volume: Sequence[int], result: Sequence[int], transposed: bool = False) -> int:
    """FLOP of a convolution; a multiplication and an addition are two.

    weight: shape [Cout, Cin, *kernel], of a transposed one [Cin, Cout, *kernel]; volume and result: shapes
    [N, channels, *extents] of its input and output. Products with zeros around the volume are counted.
    """
    # A transposed convolution spreads every input voxel over one kernel, a convolution gathers one for every output voxel.
    positions = volume if transposed else result
    return 2 * prod(weight) * positions[0] * prod(positions[2:])


def convolution_extent(
    extent: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], transposed: bool = False
) -> tuple[int, ...]:
    """Extents of a convolution's output."""
    axes = zip(extent, kernel, stride, padding, strict=True)
    if transposed:
        return tuple((e - 1) * s - 2 * p + k for e, k, s, p in axes)
    return tuple((e + 2 * p - k) // s + 1 for e, k, s, p in axes)


@dataclass(frozen=True)
class Convolution:
    """One convolution of the network, whatever the volume."""

    name: str  # of the module in nnU-Net's class
    layer: str  # as the forms of ours call it: encoder.0.0, upsamplings.0, decoder.0.0, head
    weight: tuple[int, ...]
    parameters: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    transposed: bool

    @property
    def channels(self) -> tuple[int, int]:
        """Of its input and of its output."""
        first, second = self.weight[:2]
        return (first, second) if self.transposed else (second, first)


@dataclass(frozen=True)
class Layer:
    """One convolution for one batch. A multiplication and an addition are two FLOP; normalisation, activation and
    concatenation are not counted, as is the custom. Bytes are those of its input, output and weights."""

    name: str
    flop: int
    input_bytes: int
    output_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Executed:
    """The products that one layer really computes for one batch: their data type, of PRECISIONS, and their FLOP."""

    name: str
    products: str
    flop: int


def by_type(executed: Iterable[Executed]) -> dict[str, int]:
    """FLOP of all layers by the type of their products."""
    sums: Counter[str] = Counter()
    for layer in executed:
        sums[layer.products] += layer.flop
    return dict(sums)


def convolutions(plans_or_model: dict[str, Any] | nn.Module) -> list[Convolution]:
    """The convolutions of one inference pass in order of execution; of the heads only the one at full resolution."""
    from torch import nn

    from unet3d.network import reference

    # Attributes of nnU-Net's class, which has no types.
    network: Any = plans_or_model if isinstance(plans_or_model, nn.Module) else reference.build(plans_or_model, device="meta")
    names = {module: name for name, module in network.named_modules()}

    def told(module: nn.Conv3d | nn.ConvTranspose3d, layer: str) -> Convolution:
        assert not isinstance(module.padding, str)
        return Convolution(
            names[module],
            layer,
            tuple(module.weight.shape),
            sum(parameter.numel() for parameter in module.parameters()),
            tuple(module.stride),
            tuple(module.padding),
            isinstance(module, nn.ConvTranspose3d),
        )

    def stage(modules: nn.Module, layer: str) -> list[Convolution]:
        found = [module for module in modules.modules() if isinstance(module, nn.Conv3d)]
        return [told(module, f"{layer}.{number}") for number, module in enumerate(found)]

    counted = [conv for level, blocks in enumerate(network.conv_blocks_context) for conv in stage(blocks, f"encoder.{level}")]
    for level, (up, blocks) in enumerate(zip(network.tu, network.conv_blocks_localization, strict=True)):
        counted += [told(up, f"upsamplings.{level}"), *stage(blocks, f"decoder.{level}")]
    return [*counted, told(network.seg_outputs[-1], "head")]


def layers(plans_or_model: dict[str, Any] | nn.Module, shape: tuple[int, ...], element_size: int = 4) -> list[Layer]:
    """Every convolution of one inference pass over a batch of `shape` [N, 4, D, H, W], or one volume [4, D, H, W], in
    order of execution: only the full-resolution head is among them. `element_size` is the bytes of a number, 2 for
    bf16 and fp16."""
    return of(convolutions(plans_or_model), shape, element_size)


def of(passed: Sequence[Convolution], shape: Sequence[int], element_size: int = 4) -> list[Layer]:
    """The same from the convolutions of a pass, which follow each other: each has its predecessor's extents."""
    batch, extent = (1 if len(shape) == 4 else shape[0]), tuple(shape[-3:])
    counted = []
    for conv in passed:
        output = convolution_extent(extent, conv.weight[2:], conv.stride, conv.padding, conv.transposed)
        read, written = conv.channels
        volume, result = (batch, read, *extent), (batch, written, *output)
        counted.append(
            Layer(
                conv.name,
                flop=convolution_flop(conv.weight, volume, result, conv.transposed),
                input_bytes=prod(volume) * element_size,
                output_bytes=prod(result) * element_size,
                weight_bytes=conv.parameters * element_size,
            )
        )
        extent = output
    return counted


def flops(plans_or_model: dict[str, Any] | nn.Module, shape: tuple[int, ...]) -> int:
    """FLOP of one inference pass over `shape` ([4, D, H, W] or [N, 4, D, H, W]); see `layers`."""
    return sum(layer.flop for layer in layers(plans_or_model, shape))
