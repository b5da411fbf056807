"""Instance normalisation and LeakyReLU on channels-last volumes, in two kernels that keep the layout.

PyTorch's own InstanceNorm3d leaves channels_last_3d and so pays a transposition on either side
(github.com/pytorch/pytorch/issues/59168). Here the work is split differently:

1. `moments`: count, mean and sum of squared deviations of each channel, one row for each part of the volume: sums of
   differences to a value near the mean, so that nothing is lost where the mean is far from zero. Convolutions of ours
   return these rows themselves and save this pass over memory.
2. `fold`: rows merged (Chan, Golub, LeVeque 1979: pairwise update of mean and M2), which never subtracts two large
   numbers, and turned into one scale and one shift per sample and channel, with the learned weight and bias.
3. `apply`: leaky_relu(x * scale + shift), into a new tensor or into channels of a wider one; kernels that read the
   volume next can do this while loading it, and then this pass is not needed either.

All sums are float32. Volumes are [N, C, D, H, W] with channels innermost in memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from unet3d.network.triton_ops.layout import channels_last_strides, new_volume, programs_for

ROWS = 3  # count, mean, M2
COUNT, MEAN, M2 = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def leaky_scale_shift(x, scale, shift, SLOPE: tl.constexpr):
    """leaky_relu(x * scale + shift) in float32, 0 < SLOPE < 1."""
    y = x.to(tl.float32) * scale + shift
    return tl.maximum(y, y * SLOPE)


@triton.jit
def merge(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    """Moments of two sets together; a set may be empty."""
    count = count_a + count_b
    share = count_b / tl.maximum(count, 1.0)
    delta = mean_b - mean_a
    return count, mean_a + delta * share, m2_a + m2_b + delta * delta * count_a * share


@triton.jit
def tile_moments(tile, live):
    """Count, mean and M2 of each column of tile [M, C], over the rows where live [M]."""
    rows = tl.sum(live.to(tl.float32), axis=0)
    here = live[:, None]
    mean = tl.sum(tl.where(here, tile, 0.0), axis=0) / tl.maximum(rows, 1.0)
    off = tl.where(here, tile - mean[None, :], 0.0)
    return rows, mean, tl.sum(off * off, axis=0)


@triton.jit
def moments_of_sums(count, origin, sums, squares):
    """Mean and M2 of each column from sums and squares [M, C] of differences to origin [C]."""
    total = tl.sum(sums, axis=0)
    offset = total / tl.maximum(count, 1.0)
    return origin + offset, tl.maximum(tl.sum(squares, axis=0) - total * offset, 0.0)


@triton.jit
def store_moments(part, row, count, mean, m2, channel, C):
    """Write row `row` of part [rows, 3, C]; `channel` [BLOCK] and its moments."""
    here = part + row.to(tl.int64) * 3 * C + channel
    inside = channel < C
    tl.store(here + COUNT * C, tl.zeros_like(mean) + count, mask=inside)
    tl.store(here + MEAN * C, mean, mask=inside)
    tl.store(here + M2 * C, m2, mask=inside)


@triton.jit
def _load_tile(base, v, voxels, voxel_stride, channel, C):
    """Float32 [M, BC] of voxels v [M] and channels [BC]; zero beyond the volume."""
    mask = (v < voxels)[:, None] & (channel < C)[None, :]
    return tl.load(base + v[:, None] * voxel_stride + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _moments_kernel(x, part, voxels, C, sample_stride, voxel_stride, M: tl.constexpr, BC: tl.constexpr):
    """Moments of a raw volume, a row for each program: every so manieth tile of M voxels of BC channels.

    Grid: (programs, blocks of BC channels, N).

    Volume, channels innermost:
        x: [N, voxels, C], may be channels of a wider tensor
    Moments:
        part: count, mean, M2, float32 [N * programs, 3, C]
    Extents:
        voxels: of a sample
        C: channels
    Strides in elements:
        sample_stride, voxel_stride: from a sample or voxel of x to the next
    Compile time:
        M, BC: voxels and channels of a tile, powers of 2
    """
    program, cblock, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    programs = tl.num_programs(0)
    channel = cblock * BC + tl.arange(0, BC)
    base = x + n.to(tl.int64) * sample_stride
    v = program * M + tl.arange(0, M)
    _, origin, _ = tile_moments(_load_tile(base, v, voxels, voxel_stride, channel, C), v < voxels)
    count = tl.zeros((), tl.float32)
    sums = tl.zeros((M, BC), tl.float32)
    squares = tl.zeros((M, BC), tl.float32)
    for tile in range(program, tl.cdiv(voxels, M), programs):
        v = tile * M + tl.arange(0, M)
        off = _load_tile(base, v, voxels, voxel_stride, channel, C) - origin[None, :]
        off = tl.where((v < voxels)[:, None], off, 0.0)
        sums += off
        squares += off * off
        count += tl.minimum(voxels - tile * M, M).to(tl.float32)
    mean, m2 = moments_of_sums(count, origin, sums, squares)
    store_moments(part, n * programs + program, count, mean, m2, channel, C)


@triton.jit
def _fold_kernel(part, weight, bias, scale, shift, rows, C, eps, BP: tl.constexpr, BC: tl.constexpr):
    """Merges a sample's rows of moments into the scale and shift of its normalisation. A program has BC channels.

    Grid: (blocks of BC channels, N).

    Moments:
        part: count, mean, M2, float32 [N, rows, 3, C]
    Learned parameters:
        weight, bias: float32 [C]
    Results:
        scale, shift: float32 [N, C]
    Extents:
        rows: of moments of a sample
        C: channels
    Number:
        eps: added to the variance
    Compile time:
        BP, BC: rows and channels at a time, powers of 2
    """
    cblock, n = tl.program_id(0), tl.program_id(1)
    channel = cblock * BC + tl.arange(0, BC)
    inside = channel < C
    base = part + n.to(tl.int64) * rows * 3 * C
    count = tl.zeros((BC,), tl.float32)
    mean = tl.zeros((BC,), tl.float32)
    m2 = tl.zeros((BC,), tl.float32)
    for first in range(0, rows, BP):
        row = first + tl.arange(0, BP)
        here = base + row[:, None] * 3 * C + channel[None, :]
        mask = (row < rows)[:, None] & inside[None, :]
        counts = tl.load(here + COUNT * C, mask=mask, other=0.0)
        means = tl.load(here + MEAN * C, mask=mask, other=0.0)
        total = tl.sum(counts, axis=0)
        block_mean = tl.sum(counts * means, axis=0) / tl.maximum(total, 1.0)
        off = means - block_mean[None, :]
        block_m2 = tl.sum(tl.load(here + M2 * C, mask=mask, other=0.0) + counts * off * off, axis=0)
        count, mean, m2 = merge(count, mean, m2, total, block_mean, block_m2)
    factor = tl.load(weight + channel, mask=inside, other=0.0) / tl.sqrt(m2 / tl.maximum(count, 1.0) + eps)
    tl.store(scale + n * C + channel, factor, mask=inside)
    tl.store(shift + n * C + channel, tl.load(bias + channel, mask=inside, other=0.0) - mean * factor, mask=inside)


@triton.jit
def _apply_kernel(
    x,
    scale,
    shift,
    out,
    voxels,
    C,
    x_sample,
    x_voxel,
    out_sample,
    out_voxel,
    SLOPE: tl.constexpr,
    M: tl.constexpr,
    BC: tl.constexpr,
):
    """out = leaky_relu(x * scale + shift). A program makes M voxels of BC channels.

    Grid: (blocks of M voxels, blocks of BC channels, N).

    Volumes, channels innermost, either may be channels of a wider tensor:
        x: raw input [N, voxels, C]
        out: output [N, voxels, C]
    Normalisation:
        scale, shift: float32 [N, C]
    Extents:
        voxels: of a sample
        C: channels
    Strides in elements:
        x_sample, x_voxel, out_sample, out_voxel: from a sample or voxel to the next
    Compile time:
        SLOPE: of LeakyReLU
        M, BC: voxels and channels of a tile, powers of 2
    """
    block, cblock, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = cblock * BC + tl.arange(0, BC)
    v = block * M + tl.arange(0, M)
    mask = (v < voxels)[:, None] & (channel < C)[None, :]
    tile = tl.load(x + n.to(tl.int64) * x_sample + v[:, None] * x_voxel + channel[None, :], mask=mask, other=0.0)
    factor = tl.load(scale + n * C + channel, mask=channel < C, other=0.0)[None, :]
    offset = tl.load(shift + n * C + channel, mask=channel < C, other=0.0)[None, :]
    tile = leaky_scale_shift(tile, factor, offset, SLOPE)
    tl.store(
        out + n.to(tl.int64) * out_sample + v[:, None] * out_voxel + channel[None, :], tile.to(out.dtype.element_ty), mask=mask
    )


def _channel_block(c: int) -> int:
    return max(16, min(64, triton.next_power_of_2(c)))


def moments(x: torch.Tensor) -> torch.Tensor:
    """Moments of each channel of x [N, C, D, H, W]: float32 [N, rows, 3, C], rows of count, mean and M2."""
    sample, voxel = channels_last_strides(x)
    n, c = x.shape[:2]
    voxels = x.shape[2:].numel()
    block = _channel_block(c)
    m = 4096 // block
    blocks = triton.cdiv(c, block)
    rows = min(triton.cdiv(voxels, m), max(1, programs_for(x.device) // blocks))
    part = torch.empty((n, rows, ROWS, c), dtype=torch.float32, device=x.device)
    _moments_kernel[(rows, blocks, n)](x, part, voxels, c, sample, voxel, M=m, BC=block)
    return part


def fold(part: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, float32 [N, C], that normalise a volume with these moments (biased variance, as
    torch.nn.InstanceNorm3d) and apply the learned float32 weight [C] and bias [C]."""
    n, rows, _, c = part.shape
    scale = torch.empty((n, c), dtype=torch.float32, device=part.device)
    shift = torch.empty_like(scale)
    _fold_kernel[(triton.cdiv(c, 16), n)](
        part, weight, bias, scale, shift, rows, c, eps, BP=min(256, triton.next_power_of_2(rows)), BC=16
    )
    return scale, shift


def apply(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, slope: float, out: torch.Tensor) -> torch.Tensor:
    """out = leaky_relu(x * scale + shift), scale and shift float32 [N, C]; returns out.

    x and out [N, C, D, H, W], channels innermost; out may be a slice of a wider tensor's channels, or x itself.
    """
    x_sample, x_voxel = channels_last_strides(x)
    out_sample, out_voxel = channels_last_strides(out)
    n, c = x.shape[:2]
    voxels = x.shape[2:].numel()
    block = _channel_block(c)
    m = 4096 // block
    _apply_kernel[(triton.cdiv(voxels, m), triton.cdiv(c, block), n)](
        x,
        scale,
        shift,
        out,
        voxels,
        c,
        x_sample,
        x_voxel,
        out_sample,
        out_voxel,
        SLOPE=slope,
        M=m,
        BC=block,
    )
    return out


def instance_norm_leaky_relu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    slope: float = 0.01,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """leaky_relu(instance_norm(x)) for x [N, C, D, H, W] in channels_last_3d; same as PyTorch's two modules.

    `weight` and `bias` float32 [C]. `out` may be x itself or channels of a wider channels-last tensor.
    """
    scale, shift = fold(moments(x), weight, bias, eps)
    if out is None:
        out = new_volume(x.shape[0], x.shape[1], tuple(x.shape[2:]), x)
    return apply(x, scale, shift, slope, out)
