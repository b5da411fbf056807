"""Labels of logits whose classes are innermost in memory, in one pass that reads each logit once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _labels_kernel(logits, labels, voxels, COUT: tl.constexpr, BM: tl.constexpr):
    """The class of the largest logit, the first of equal ones. A program makes BM voxels.

    Grid: (blocks of BM voxels,).

    Volumes:
        logits: any floating-point type [voxels, COUT]
        labels: uint8 [voxels]
    Extents:
        voxels: of all samples
    Compile time:
        COUT: classes
        BM: voxels of a program
    """
    v = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = v < voxels
    best = tl.load(logits + v * COUT, mask=live, other=0.0)
    label = tl.zeros((BM,), tl.uint8)
    for c in tl.static_range(1, COUT):
        value = tl.load(logits + v * COUT + c, mask=live, other=0.0)
        label = tl.where(value > best, tl.full((BM,), c, tl.uint8), label)
        best = tl.maximum(best, value)
    tl.store(labels + v, label, mask=live)


def most_likely(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Fill labels, uint8 [N, D, H, W], from logits [N, classes, D, H, W] in channels_last_3d."""
    voxels = labels.numel()
    _labels_kernel[(triton.cdiv(voxels, 1024),)](logits, labels, voxels, COUT=logits.shape[1], BM=1024, num_warps=4)
