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


def layers(plans_or_model: dict[str, Any] | nn.Module, shape: tuple[int, ...], element_size: int = 4) -> list[Layer]:
    """Every convolution of one inference pass over a batch of `shape` [N, 4, D, H, W], or one volume [4, D, H, W], in
    order of execution: only the full-resolution head is among them. `element_size` is the bytes of a number, 2 for
    bf16 and fp16."""
    from torch import nn

    from unet3d.network import reference

    # Attributes of nnU-Net's class, which has no types.
    network: Any = plans_or_model if isinstance(plans_or_model, nn.Module) else reference.build(plans_or_model, device="meta")
    batch, extent = (1 if len(shape) == 4 else shape[0]), tuple(shape[-3:])
    names = {module: name for name, module in network.named_modules()}
    counted: list[Layer] = []

    def add(module: nn.Conv3d | nn.ConvTranspose3d, extent: tuple[int, ...]) -> tuple[int, ...]:
        transposed = isinstance(module, nn.ConvTranspose3d)
        assert not isinstance(module.padding, str)
        output = convolution_extent(extent, module.kernel_size, module.stride, module.padding, transposed)
        volume, result = (batch, module.in_channels, *extent), (batch, module.out_channels, *output)
        counted.append(
            Layer(
                names[module],
                flop=convolution_flop(module.weight.shape, volume, result, transposed),
                input_bytes=prod(volume) * element_size,
                output_bytes=prod(result) * element_size,
                weight_bytes=sum(p.numel() for p in module.parameters()) * element_size,
            )
        )
        return output

    def add_all(stage: nn.Module, extent: tuple[int, ...]) -> tuple[int, ...]:
        for module in stage.modules():
            if isinstance(module, nn.Conv3d):
                extent = add(module, extent)
        return extent

    for stage in network.conv_blocks_context:
        extent = add_all(stage, extent)
    for up, stage in zip(network.tu, network.conv_blocks_localization, strict=True):
        extent = add_all(stage, add(up, extent))
    add(network.seg_outputs[-1], extent)
    return counted


def flops(plans_or_model: dict[str, Any] | nn.Module, shape: tuple[int, ...]) -> int:
    """FLOP of one inference pass over `shape` ([4, D, H, W] or [N, 4, D, H, W]); see `layers`."""
    return sum(layer.flop for layer in layers(plans_or_model, shape))
