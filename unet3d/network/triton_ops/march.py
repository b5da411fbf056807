"""3x3x3 convolution of few channels to few, which walks along z and never writes partial sums to memory.

A program owns a tile of the (y, x) plane. It loads the 9 neighbours of its pixels in one input plane and multiplies them
by the weights of three output planes at once: a product of 4 * Cout columns, those of the plane that this completes, of
the next two, and a quarter of zeros that makes the width a power of 2. Then the columns move up by one plane. The
weights stay in shared memory for the whole walk, which limits the channels; the next planes are on their way meanwhile::

    input    |            columns of the sums, Cout each            |
    plane    |   z - 1    |     z      |   z + 1    |   (zeros)    |
             |            |            |            |              |
      z  --> | + x * w[2] | + x * w[1] | + x * w[0] |              |   w[k]: the 9 taps of the kernel's plane k
             |            |            |            |              |
             '---done-----'         .--'         .--'                   output plane z - 1 is counted and stored,
                          .---------'  .---------'                      the columns move up
             |     z      |   z + 1    | z + 2 (0)  |   (zeros)    |
    z + 1 -> | + x * w[2] | + x * w[1] | + x * w[0] |              |

The moments of the output for the next normalisation come from the float32 accumulators. The convolution's bias is left
out: the instance normalisation that follows subtracts it again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from unet3d.network.triton_ops.layout import channels_last_strides, new_volume
from unet3d.network.triton_ops.norm import ROWS, moments_of_sums, store_moments

# Inputs and outputs for which weights and tiles fit into a multiprocessor's shared memory.
CHANNELS = (16, 32)
# Pixels of a tile, at least the 64 rows of a Hopper matrix instruction, and output planes of a walk.
TILE_Y, TILE_X, PLANES = 4, 16, 56
# Rows of a packed weight: the centre apart, so that both products have a power of 2 as their length.
TAPS = (0, 1, 2, 3, 5, 6, 7, 8, 4)


@triton.jit
def _load_neighbours(x, z, k, zz, yy, xx, D, H, W, CIN: tl.constexpr, CENTRE: tl.constexpr):
    """[M, K] of plane z, which zz [M] repeats: the pixels themselves, or their 8 neighbours one after another; zero
    outside the volume."""
    tap = k // CIN + 4 if CENTRE else k // CIN + (k // CIN >= 4).to(tl.int32)
    dy = (tap // 3 - 1)[None, :]
    dx = (tap % 3 - 1)[None, :]
    iy = yy[:, None] + dy
    ix = xx[:, None] + dx
    ok = ((zz >= 0) & (zz < D))[:, None] & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
    at = ((yy * W + xx) * CIN)[:, None] + (dy * W + dx) * CIN + (k % CIN)[None, :]
    return tl.load(x + z.to(tl.int64) * H * W * CIN + at, mask=ok, other=0.0)


@triton.jit
def _move_up(acc, M: tl.constexpr, COUT: tl.constexpr):
    """The first of four planes in the columns of acc [M, 4 * COUT], and acc with the next two in front and zeros behind. A
    thread keeps its numbers."""
    low, high = tl.split(tl.permute(tl.reshape(acc, (M, 2, 2, COUT)), (0, 3, 2, 1)))
    out, second = tl.split(low)
    third, _ = tl.split(high)
    zeros = tl.zeros_like(out)
    moved = tl.join(tl.join(second, third), tl.join(zeros, zeros))
    return out, tl.reshape(tl.permute(moved, (0, 3, 2, 1)), (M, 4 * COUT))


@triton.jit
def _march_kernel(x, w, y, part, D, H, W, PLANES, CIN: tl.constexpr, COUT: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    """A 3x3x3 convolution, stride 1, zero padding, and the moments of its output. A program makes BY x BX outputs of
    PLANES planes, all channels; see the drawing above.

    Grid: (tiles of the (y, x) plane, blocks of PLANES planes, N).

    Volumes, channels innermost:
        x: input, half precision [N, D, H, W, CIN]
        y: raw output, the same type [N, D, H, W, COUT]
    Weights:
        w: of `pack_march_weight`, the same type [9 * CIN, 4 * COUT]
    Moments:
        part: count, mean, M2 of each program's outputs, float32 [N * blocks * tiles, 3, COUT]
    Extents:
        D, H, W: of a volume
        PLANES: output planes of a walk
    Compile time:
        CIN, COUT: input and output channels, of `CHANNELS`
        BY, BX: rows and columns of a tile, whose product is a multiple of 16
    """
    M: tl.constexpr = BY * BX
    tiles_x = tl.cdiv(W, BX)
    tile, z_block, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    m = tl.arange(0, M)
    yy = (tile // tiles_x) * BY + m // BX
    xx = (tile % tiles_x) * BX + m % BX
    live = (yy < H) & (xx < W)
    channel = tl.arange(0, COUT)
    column = tl.arange(0, 4 * COUT)
    around, centre = tl.arange(0, 8 * CIN), tl.arange(0, CIN)
    x += n.to(tl.int64) * D * H * W * CIN
    y += n.to(tl.int64) * D * H * W * COUT
    w_around = tl.load(w + around[:, None] * (4 * COUT) + column[None, :])
    w_centre = tl.load(w + (8 * CIN + centre[:, None]) * (4 * COUT) + column[None, :])
    acc = tl.zeros((M, 4 * COUT), tl.float32)
    # Of rows that are 8 apart, which one thread of a matrix instruction holds: adding them needs no exchange.
    sums = tl.zeros((M // 16, 8, COUT), tl.float32)
    squares = tl.zeros((M // 16, 8, COUT), tl.float32)
    first = z_block * PLANES
    last = tl.minimum(first + PLANES, D)
    for step in range(last - first + 2):
        z = first - 1 + step
        zz = tl.zeros_like(yy) + z
        acc = tl.dot(_load_neighbours(x, z, centre, zz, yy, xx, D, H, W, CIN, True), w_centre, acc)
        acc = tl.dot(_load_neighbours(x, z, around, zz, yy, xx, D, H, W, CIN, False), w_around, acc)
        out, acc = _move_up(acc, M, COUT)
        # The first two planes complete outputs of the walk before.
        inside = (live & (zz > first))[:, None]
        counted = tl.reshape(tl.where(inside, out, 0.0), (M // 16, 2, 8, COUT))
        sums += tl.sum(counted, axis=1)
        squares += tl.sum(counted * counted, axis=1)
        tl.store(
            y + (z - 1).to(tl.int64) * H * W * COUT + ((yy * W + xx) * COUT)[:, None] + channel[None, :],
            out.to(y.dtype.element_ty),
            mask=inside,
        )
    count = tl.sum(live.to(tl.float32), axis=0) * (last - first).to(tl.float32)
    # A program's few thousand voxels lose less in float32 sums of squares than the output loses by its rounding.
    mean, m2 = moments_of_sums(
        count, tl.zeros((COUT,), tl.float32), tl.reshape(sums, (M // 2, COUT)), tl.reshape(squares, (M // 2, COUT))
    )
    row = (n * tl.num_programs(1) + z_block) * tl.num_programs(0) + tile
    store_moments(part, row, count, mean, m2, channel, COUT)


def pack_march_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin, 3, 3, 3] as [9 * Cin, 4 * Cout]: rows (tap of the plane, input), columns what a plane
    gives to the output plane after it, to its own, to the one before it, and zeros. Raises ValueError for other channels
    than those of `CHANNELS`."""
    cout, cin = weight.shape[:2]
    if cin not in CHANNELS or cout not in CHANNELS:
        raise ValueError(f"the marching convolution has {CHANNELS} inputs and outputs, not {cin} and {cout}")
    packed = torch.zeros((9, cin, 4, cout), dtype=weight.dtype, device=weight.device)
    packed[:, :, :3] = weight.flip(2).permute(3, 4, 1, 2, 0).reshape(9, cin, 3, cout)[list(TAPS)]
    return packed.reshape(9 * cin, 4 * cout)


def conv_march(x: torch.Tensor, w: torch.Tensor, planes: int = PLANES) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x [N, Cin, D, H, W] in channels_last_3d; w of `pack_march_weight`.

    planes: output planes of a walk. Returns the output [N, Cout, D, H, W] and its moments [N, rows, 3, Cout].
    """
    n, cin, d, h, width = x.shape
    if 9 * cin != w.shape[0] or channels_last_strides(x) != (x.shape[1:].numel(), cin):
        raise ValueError(f"a weight for {w.shape[0] // 9} inputs needs them in channels_last_3d, not {tuple(x.shape)}")
    cout = w.shape[1] // 4
    tiles = triton.cdiv(h, TILE_Y) * triton.cdiv(width, TILE_X)
    z_blocks = triton.cdiv(d, planes)
    y = new_volume(n, cout, (d, h, width), x)
    part = torch.empty((n, z_blocks * tiles, ROWS, cout), dtype=torch.float32, device=x.device)
    _march_kernel[(tiles, z_blocks, n)](
        x, w, y, part, d, h, width, planes, CIN=cin, COUT=cout, BY=TILE_Y, BX=TILE_X, num_warps=4, num_stages=3
    )
    return y, part
