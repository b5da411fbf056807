"""Which form computes a convolution: measured where a CPU was measured, a safe rule elsewhere."""

from __future__ import annotations

import torch

WINOGRAD = {
    tile: f"winograd {'x'.join(map(str, tile))}, fp32 products"
    for tile in ((2, 2, 2), (4, 4, 4), (4, 4, 6), (4, 6, 6), (6, 6, 6))
}
DIRECT = {torch.float32: "direct, fp32 products", torch.bfloat16: "direct, bf16 products"}
# Chosen for bf16 wherever there are tiles: on 16 threads of an Emerald Rapids the network takes half of the time that it
# takes with Winograd's forms.
AMX = {torch.bfloat16: "direct, bf16 products on AMX tiles", torch.int8: "direct, int8 products on AMX tiles"}


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
