"""Which form computes a convolution: measured where a CPU was measured, a safe rule elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from unet3d.config.precisions import name_of_type

WINOGRAD = {
    tile: f"winograd {'x'.join(map(str, tile))}, fp32 products"
    for tile in ((2, 2, 2), (4, 4, 4), (4, 4, 6), (4, 6, 6), (6, 6, 6))
}
DIRECT = {torch.float32: "direct, fp32 products", torch.bfloat16: "direct, bf16 products"}
# Chosen for bf16 wherever there are tiles: on 16 threads of an Emerald Rapids the network takes half of the time that it
# takes with Winograd's forms.
AMX = {torch.bfloat16: "direct, bf16 products on AMX tiles", torch.int8: "direct, int8 products on AMX tiles"}

TILES = {form: tile for tile, form in WINOGRAD.items()}
TYPES = {
    **dict.fromkeys(TILES, torch.float32),
    **{form: dtype for dtype, form in (*DIRECT.items(), *AMX.items())},
}


def products(form: str) -> str:
    """Data type of a form's products, of PRECISIONS, whatever the tensors' type is."""
    return name_of_type(str(TYPES[form]).removeprefix("torch."))


def executed_flop(form: str, numbers: int, samples: int, extent: Sequence[int]) -> int:
    """FLOP of the products that a form computes; Winograd's transforms are no products.

    numbers: of its packed weight, zeros that pad it too. extent: of its output, of an upsampling of its input. Each number is
    multiplied once for each voxel, by Winograd's forms once for each tile, also one that reaches over the volume's edge.
    """
    tile = TILES.get(form, (1, 1, 1))
    return 2 * numbers * samples * prod(-(-n // step) for n, step in zip(extent, tile, strict=True))


def product_type(storage: torch.dtype, vectors: str) -> torch.dtype:
    """Type of the products of direct forms: bf16 where tensors are bf16 and the CPU multiplies it."""
    return torch.bfloat16 if storage == torch.bfloat16 and vectors.endswith("BF16") else torch.float32


def tile(scale: int, storage: torch.dtype) -> tuple[int, int, int] | None:
    """Winograd's tile for a convolution with stride 1, None for the direct form.

    scale: by how much the network has made the extents smaller before this layer.

    Measured on Zen 4 with AVX-512 and with AVX2. Larger tiles multiply less, but reach further over the edges of small
    volumes, and their weights are larger: where these leave the caches smaller tiles win, and at 1/16, with 320
    channels, 2x2x2 keeps the weights at 26 MB a layer where 4x4x4 would be 5 ms a layer faster with 88 MB. Six outputs
    in all dimensions have an error of 8e-6, far below bf16's rounding, but fp32 gets tiles of 4e-6.
    """
    if scale >= 32:
        return None
    if scale >= 16:
        return (2, 2, 2)
    if scale >= 8:
        return (4, 4, 4)
    if scale >= 4:
        return (4, 4, 6)
    return (6, 6, 6) if storage == torch.bfloat16 else (4, 6, 6)
