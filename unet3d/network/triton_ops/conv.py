"""3x3x3 convolution of the network's input: 4 modalities, where libraries pad channels or leave the matrix units.

A program owns a tile of the (y, x) plane and walks along z: an input plane is loaded for the 3 rows of the kernel and
multiplied by three weights at once, for the output planes behind, at and in front of it. A row of the products is 4
neighbours along x of 4 modalities, 16 numbers that lie together in channels_last_3d. The moments of the output for the
next normalisation come from the float32 accumulators, so that no further pass over the output is needed.

The convolution's bias is left out: the instance normalisation that follows subtracts it again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from unet3d.network.triton_ops.layout import MODALITIES, channels_last_strides, new_volume
from unet3d.network.triton_ops.norm import ROWS, moments_of_sums, store_moments

# Outputs of a plane (y, x) and planes that a program makes.
TILE_Y, TILE_X, PLANES = 4, 16, 56


@triton.jit
def _load_weight(w, row, COUT, channel):
    """[16, BN] of the packed weights: 4 neighbours of 4 modalities by output channel; zero beyond COUT."""
    k = tl.arange(0, 16)
    return tl.load(w + (row * 16 + k[:, None]) * COUT + channel[None, :], mask=(channel < COUT)[None, :], other=0.0)


@triton.jit
def _load_row(x, z, yy, xx, ky: tl.constexpr, D, H, W):
    """Input [M, 16] for the kernel's row ky: 4 neighbours along x of 4 modalities; zero outside the volume. The fourth
    neighbour has zero weights."""
    k = tl.arange(0, 16)
    iz = tl.zeros_like(yy) + z
    iy = yy + (ky - 1)
    ix = xx[:, None] + (k // 4 - 1)[None, :]
    ok = ((iz >= 0) & (iz < D) & (iy >= 0) & (iy < H))[:, None] & (ix >= 0) & (ix < W)
    at = ((iz * H + iy) * W + xx - 1) * 4
    return tl.load(x + at[:, None] + k[None, :], mask=ok, other=0.0)


@triton.jit
def _first_kernel(x, w, y, part, D, H, W, COUT, BY: tl.constexpr, BX: tl.constexpr, PLANES: tl.constexpr, BN: tl.constexpr):
    """A 3x3x3 convolution of 4 channels, stride 1, zero padding, and the moments of its output. A program makes BY x BX
    outputs of PLANES planes, all channels.

    Grid: (tiles of the (y, x) plane, blocks of PLANES planes, N).

    Volumes, channels innermost:
        x: input, half precision [N, D, H, W, 4]
        y: raw output, the same type [N, D, H, W, COUT]
    Weights:
        w: of `pack_first_weight`, the same type [9, 16, COUT], rows of 3 * kz + ky
    Moments:
        part: count, mean, M2 of each program's outputs, float32 [N * blocks * tiles, 3, COUT]
    Extents:
        D, H, W: of a volume
        COUT: output channels
    Compile time:
        BY, BX: rows and columns of a tile, whose product is at least 16
        PLANES: output planes of a walk
        BN: COUT rounded up to a power of 2, at least 16
    """
    tiles_x = tl.cdiv(W, BX)
    tile, z_block, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    m = tl.arange(0, BY * BX)
    yy = (tile // tiles_x) * BY + m // BX
    xx = (tile % tiles_x) * BX + m % BX
    channel = tl.arange(0, BN)
    x += n.to(tl.int64) * D * H * W * 4
    y += n.to(tl.int64) * D * H * W * COUT
    weights = ()
    for ky in tl.static_range(3):
        for kz in tl.static_range(3):
            weights = weights + (_load_weight(w, kz * 3 + ky, COUT, channel),)  # type: ignore[assignment]
    # What earlier input planes gave to the output planes z - 1 and z.
    behind = tl.zeros((BY * BX, BN), tl.float32)
    at = tl.zeros((BY * BX, BN), tl.float32)
    sums = tl.zeros((BY * BX, BN), tl.float32)
    squares = tl.zeros((BY * BX, BN), tl.float32)
    first = z_block * PLANES
    last = tl.minimum(first + PLANES, D)
    for step in range(PLANES + 2):
        z = first - 1 + step
        ahead = tl.zeros((BY * BX, BN), tl.float32)
        for ky in tl.static_range(3):
            a = _load_row(x, z, yy, xx, ky, D, H, W)
            behind = tl.dot(a, weights[3 * ky + 2], behind)
            at = tl.dot(a, weights[3 * ky + 1], at)
            ahead = tl.dot(a, weights[3 * ky], ahead)
        # By mask and not by a branch: Triton 3.6 cannot compile these products next to one.
        o = tl.zeros_like(yy) + (z - 1)
        live = (o >= first) & (o < last) & (yy < H) & (xx < W)
        out = tl.where(live[:, None], behind, 0.0)
        sums += out
        squares += out * out
        tl.store(
            y + (((o * H + yy) * W + xx) * COUT)[:, None] + channel[None, :],
            behind.to(y.dtype.element_ty),
            mask=live[:, None] & (channel < COUT)[None, :],
        )
        behind = at
        at = ahead
    count = tl.sum(((yy < H) & (xx < W)).to(tl.float32), axis=0) * (last - first).to(tl.float32)
    # A program's few thousand voxels lose less in float32 sums of squares than the output loses by its rounding.
    mean, m2 = moments_of_sums(count, tl.zeros((BN,), tl.float32), sums, squares)
    row = (n * tl.num_programs(1) + z_block) * tl.num_programs(0) + tile
    store_moments(part, row, count, mean, m2, channel, COUT)


def pack_first_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, 4, 3, 3, 3] as [9, 16, Cout], a row being 4 x-neighbours of 4 modalities, the last of zeros."""
    cout = weight.shape[0]
    packed = torch.zeros((3, 3, 4, MODALITIES, cout), dtype=weight.dtype, device=weight.device)
    packed[:, :, :3] = weight.permute(2, 3, 4, 1, 0)
    return packed.reshape(9, 16, cout)


def conv_first(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x [N, 4, D, H, W] in channels_last_3d; w of `pack_first_weight`.

    Returns the output [N, Cout, D, H, W] and its moments [N, rows, 3, Cout].
    """
    n, cin, d, h, width = x.shape
    if cin != MODALITIES or channels_last_strides(x) != (x.shape[1:].numel(), cin):
        raise ValueError(f"the first convolution reads {MODALITIES} modalities in channels_last_3d, not {tuple(x.shape)}")
    cout = w.shape[2]
    tiles = triton.cdiv(h, TILE_Y) * triton.cdiv(width, TILE_X)
    z_blocks = triton.cdiv(d, PLANES)
    y = new_volume(n, cout, (d, h, width), w)
    part = torch.empty((n, z_blocks * tiles, ROWS, cout), dtype=torch.float32, device=x.device)
    _first_kernel[(tiles, z_blocks, n)](
        x,
        w,
        y,
        part,
        d,
        h,
        width,
        cout,
        BY=TILE_Y,
        BX=TILE_X,
        PLANES=PLANES,
        BN=max(16, triton.next_power_of_2(cout)),
        num_warps=4,
        num_stages=1,
    )
    return y, part
