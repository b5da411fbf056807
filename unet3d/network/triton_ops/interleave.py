"""Volumes as the host has them, a modality after the other, to channels innermost: one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _interleave_kernel(x, y, voxels, C: tl.constexpr, BM: tl.constexpr):
    """A program brings the C numbers of BM voxels side by side.

    Grid: (blocks of BM voxels, N).

    Volumes:
        x: any type [N, C, voxels]
        y: the same type [N, voxels, C]
    Extents:
        voxels: of a sample
    Compile time:
        C: channels, a power of two
        BM: voxels of a program
    """
    sample = tl.program_id(1).to(tl.int64) * voxels * C
    v = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, C)
    live = (v < voxels)[:, None]
    # Voxels lie side by side in x, channels in y: the compiler passes the tile on between threads.
    tile = tl.load(x + sample + c[None, :].to(tl.int64) * voxels + v[:, None], mask=live)
    tl.store(y + sample + v[:, None].to(tl.int64) * C + c[None, :], tile, mask=live)


def interleave(x: torch.Tensor, y: torch.Tensor) -> None:
    """Fill y [N, C, D, H, W] in channels_last_3d from a contiguous x of its shape and type; C is a power of two."""
    n, c, voxels = x.shape[0], x.shape[1], x.shape[2:].numel()
    _interleave_kernel[(triton.cdiv(voxels, 1024), n)](x, y, voxels, C=c, BM=1024, num_warps=4)
