"""Weights in the order in which the fused layers read them, see winograd.h, direct.h, upsample.cpp,
head.cpp and amx_conv.h.

Channels are padded by zeros to multiples of 32 (BLOCK): padded outputs are exactly zero, padded inputs add nothing.
"""

from __future__ import annotations

from math import prod

import torch

BLOCK = 32
# The finite points of F(M, 3) beside 0, each with both signs: those of transforms.h.
POINTS = {2: (1.0,), 4: (0.625, 1.5), 6: (1.0, 2.0, 0.5)}
# Channels that the network's input is padded to.
INPUT = 4


def padded(channels: int) -> int:
    """The multiple of 32 that so many channels are stored in."""
    return -(-channels // BLOCK) * BLOCK


def pad(x: torch.Tensor, dim: int, size: int | None = None) -> torch.Tensor:
    """x with zeros at the end of one dimension, up to `size` or a multiple of 32."""
    size = padded(x.shape[dim]) if size is None else size
    if size == x.shape[dim]:
        return x
    shape = list(x.shape)
    shape[dim] = size - x.shape[dim]
    return torch.cat((x, x.new_zeros(shape)), dim)


def pad_inputs(weight: torch.Tensor, sources: list[int], dim: int = 1) -> torch.Tensor:
    """A weight whose input channels, those of each source, are padded like the sources themselves."""
    return torch.cat([pad(part, dim) for part in weight.split(sources, dim)], dim)


def slots(channels: int, storage: torch.dtype) -> torch.Tensor:
    """Input channels in the order of slots (vec.h): as they are for fp32; even ones first in each block for bf16."""
    order = torch.arange(channels).view(-1, BLOCK)
    return (order if storage == torch.float32 else torch.cat((order[:, ::2], order[:, 1::2]), 1)).flatten()


def transform(tile: int) -> torch.Tensor:
    """[tile + 2, 3] in float64: the Winograd transform of 3 taps that belongs to transforms.h."""
    finite = [0.0, *(sign * p for p in POINTS[tile] for sign in (1, -1))]
    rows = [[r**k / prod(r - other for other in finite if other != r) for k in range(3)] for r in finite]
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def panels(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[Cout, Cin, positions] -> [panels, positions, Cin, 32], or for bf16 products [panels, positions, Cin/2, 32, 2]."""
    outputs, inputs, positions = weight.shape
    weight = weight.to(dtype).view(outputs // BLOCK, BLOCK, inputs, positions).permute(0, 3, 2, 1)
    if dtype == torch.bfloat16:
        weight = weight.unflatten(2, (inputs // 2, 2)).transpose(3, 4)
    return weight.contiguous()


def winograd(weight: torch.Tensor, tile: tuple[int, int, int], storage: torch.dtype) -> torch.Tensor:
    """[Cout, Cin, 3, 3, 3], channels padded, for F(tile): transformed in float64, kept in fp32."""
    exact = weight.double()
    for dim, extent in enumerate(tile, start=2):
        exact = torch.tensordot(exact, transform(extent), dims=([2], [1]))
        assert exact.shape[-1] == extent + 2, dim
    return panels(exact.flatten(2)[:, slots(weight.shape[1], storage)], torch.float32)


def direct(weight: torch.Tensor, dtype: torch.dtype, storage: torch.dtype) -> torch.Tensor:
    """[Cout, Cin, *kernel], channels padded, with products in `dtype`: 3x3x3 taps, or those of an upsampling."""
    return panels(weight.flatten(2)[:, slots(weight.shape[1], storage)], dtype)


def direct_input(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[Cout, up to 4, 3, 3, 3] of the network's input, Cout padded -> its taps one after the other, 4 channels each."""
    return panels(pad(weight, 1, INPUT).flatten(2), dtype)


def amx_tiles(weight: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """[Cout, numbers] -> [panels, 2, steps, 16, 16, numbers in 4 bytes]; steps [steps, row of a tile] of numbers, -1: zero."""
    padded_weight = torch.cat((weight, weight.new_zeros(weight.shape[0], 1)), 1)[:, steps]
    packed = padded_weight.view(weight.shape[0] // BLOCK, 2, 16, steps.shape[0], 16, steps.shape[1] // 16)
    return packed.permute(0, 1, 3, 4, 2, 5).contiguous()


def amx_bf16(weight: torch.Tensor) -> torch.Tensor:
    """[Cout, Cin, 3, 3, 3], channels padded, for bf16 products on AMX tiles: a row is a block of channels in slots."""
    inputs = weight.shape[1]
    blocks = slots(inputs, torch.bfloat16).view(-1, 1, BLOCK)
    steps = (torch.arange(27).view(1, -1, 1) * inputs + blocks).flatten(0, 1)
    return amx_tiles(weight.flatten(2).transpose(1, 2).flatten(1).bfloat16(), steps)


def amx_input(weight: torch.Tensor) -> torch.Tensor:
    """[Cout, up to 4, 3, 3, 3] of the network's input, Cout padded, in the order of amx_bf16.cpp.

    A row is four taps in x by two in y of 4 channels; those outside of the kernel are zeros.
    """
    column = torch.arange(BLOCK)
    x, channel = column // (2 * INPUT), column % INPUT
    y = torch.arange(0, 3, 2).view(1, -1, 1) + column // INPUT % 2
    steps = ((torch.arange(3).view(-1, 1, 1) * 3 + y) * 3 + x) * INPUT + channel
    steps = torch.where((x < 3) & (y < 3), steps, -1).flatten(0, 1)
    return amx_tiles(pad(weight, 1, INPUT).flatten(2).transpose(1, 2).flatten(1).bfloat16(), steps)


def amx_int8(weight: torch.Tensor) -> torch.Tensor:
    """int8 [Cout, Cin, 3, 3, 3], channels padded to 32, for AMX tiles in the order of bytes of amx_int8.cpp.

    A row is two blocks of channels, or for 32 channels two taps in x.
    """
    inputs = weight.shape[1]
    byte = torch.arange(2 * BLOCK)
    slot = 16 * (byte // 4 % 4) + 4 * (byte // 16) + byte % 4
    channels = slots(inputs, torch.bfloat16)
    if inputs == BLOCK:
        taps = torch.arange(0, 3, 2).view(1, -1, 1) + slot // BLOCK
        steps = (3 * torch.arange(9).view(-1, 1, 1) + taps) * inputs + channels[slot % BLOCK]
        steps = torch.where(taps < 3, steps, -1)
    else:
        blocks = torch.cat((channels, channels.new_full((inputs % (2 * BLOCK),), -1))).view(-1, 1, 2 * BLOCK)[..., slot]
        steps = torch.where(blocks < 0, -1, torch.arange(27).view(1, -1, 1) * inputs + blocks)
    return amx_tiles(weight.flatten(2).transpose(1, 2).flatten(1), steps.flatten(0, 1))


def head(weight: torch.Tensor, storage: torch.dtype) -> torch.Tensor:
    """[classes, Cin, 1, 1, 1] -> [classes, Cin padded] in fp32, in slots."""
    weight = pad(weight.flatten(1), 1).float()
    return weight[:, slots(weight.shape[1], storage)].contiguous()
