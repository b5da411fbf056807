"""Which form computes a convolution: measured where a CPU was measured, a safe rule elsewhere."""

from __future__ import annotations

import torch

WINOGRAD = {tile: f"winograd {'x'.join(map(str, tile))}, fp32 products" for tile in (
    (2, 2, 2), (2, 4, 4), (4, 4, 4), (4, 4, 6), (4, 6, 6), (6, 6, 6))}
DIRECT = {torch.float32: "direct, fp32 products", torch.bfloat16: "direct, bf16 products"}
# On 16 threads of an Emerald Rapids these are the fastest for every layer in bf16: the whole network takes half of the time
# that it takes with Winograd's forms.
AMX = {torch.bfloat16: "direct, bf16 products on AMX tiles", torch.int8: "direct, int8 products on AMX tiles"}


def product_type(storage: torch.dtype, vectors: str) -> torch.dtype:
    """Type of the products of direct forms: bf16 where tensors are bf16 and the CPU multiplies it."""
    return torch.bfloat16 if storage == torch.bfloat16 and vectors.endswith("BF16") else torch.float32


def tile(inputs: int, outputs: int, scale: int, storage: torch.dtype) -> tuple[int, int, int] | None:
    """Winograd's tile for a convolution with stride 1, None for the direct form.

    scale: by how much the network has made the extents smaller before this layer.
    """
    if scale >= 32:
        return None
    if scale >= 16:
        return (2, 2, 2)
    if scale >= 8:
        return (4, 4, 4)
    if scale >= 4 or storage == torch.float32:
        return (4, 6, 6)
    return (6, 6, 6)
