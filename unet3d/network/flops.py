"""What one forward pass computes and moves, counted from the network's modules."""

from dataclasses import dataclass
from math import prod

from torch import nn

from unet3d.network import reference


@dataclass(frozen=True)
class Layer:
    """One convolution for one batch. A multiplication and an addition are two FLOP; normalisation, activation and
    concatenation are not counted, as is the custom. Bytes are those of its input, output and weights."""

    name: str
    flop: int
    input_bytes: int
    output_bytes: int
    weight_bytes: int


def layers(plans_or_model: dict | nn.Module, shape: tuple[int, ...], element_size: int = 4) -> list[Layer]:
    """Every convolution of one inference pass over a batch of `shape` [N, 4, D, H, W], or one volume [4, D, H, W], in
    order of execution: only the full-resolution head is among them. `element_size` is the bytes of a number, 2 for
    bf16 and fp16."""
    network = plans_or_model if isinstance(plans_or_model, nn.Module) else reference.build(plans_or_model, device="meta")
    batch, extent = (1 if len(shape) == 4 else shape[0]), tuple(shape[-3:])
    names = {module: name for name, module in network.named_modules()}
    found: list[Layer] = []

    def add(module: nn.Module, extent: tuple[int, ...]) -> tuple[int, ...]:
        transposed = isinstance(module, nn.ConvTranspose3d)
        if transposed:
            output = tuple(e * s for e, s in zip(extent, module.stride, strict=True))
        else:
            output = tuple(
                (e + 2 * p - k) // s + 1
                for e, p, k, s in zip(extent, module.padding, module.kernel_size, module.stride, strict=True)
            )
        # A transposed convolution spreads every input voxel over one kernel, a convolution gathers one for every output.
        voxels = batch * prod(extent if transposed else output)
        found.append(
            Layer(
                names[module],
                flop=2 * voxels * module.weight.numel(),
                input_bytes=batch * prod(extent) * module.in_channels * element_size,
                output_bytes=batch * prod(output) * module.out_channels * element_size,
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
    return found


def flops(plans_or_model: dict | nn.Module, shape: tuple[int, ...]) -> int:
    """FLOP of one inference pass over `shape` ([4, D, H, W] or [N, 4, D, H, W]); see `layers`."""
    return sum(layer.flop for layer in layers(plans_or_model, shape))
