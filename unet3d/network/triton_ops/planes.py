"""3x3x3 convolution to few channels as 2D convolutions, which libraries compute at twice the rate.

With 32 output channels a matrix product has 32 columns, too few to keep matrix units busy. Here each plane of the volume
gets one 3x3 convolution to three times the channels: what it gives to the output planes behind, at and in front of it. A
Triton kernel then adds up the three parts of every output plane (`add_planes`), in float32, and takes the moments for
the next normalisation in the same pass.

Planes are worked off in chunks, which bounds the memory for the parts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from unet3d.network.triton_ops.layout import new_volume, programs_for
from unet3d.network.triton_ops.norm import ROWS, merge, moments_of_sums, store_moments, tile_moments


@triton.jit
def _part_at(before, here, start, before_start, plane, last, kz: tl.constexpr, v, channel, voxels, COUT):
    """What input plane `plane` gives by its weights kz: [M, COUT] float32, zero for a plane outside the volume."""
    if plane >= start:
        base = here + (plane - start).to(tl.int64) * voxels * 3 * COUT
    else:
        base = before + (plane - before_start).to(tl.int64) * voxels * 3 * COUT
    planes = tl.zeros_like(v) + plane
    mask = ((v < voxels) & (planes >= 0) & (planes < last))[:, None] & (channel < COUT)[None, :]
    return tl.load(base + v[:, None] * (3 * COUT) + kz * COUT + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _sum_at(before, here, start, before_start, depth, z, v, channel, voxels, COUT):
    """Output [M, COUT] of plane z: the parts of the planes before, at and after it."""
    out = _part_at(before, here, start, before_start, z - 1, depth, 0, v, channel, voxels, COUT)
    out += _part_at(before, here, start, before_start, z, depth, 1, v, channel, voxels, COUT)
    out += _part_at(before, here, start, before_start, z + 1, depth, 2, v, channel, voxels, COUT)
    return out


@triton.jit
def _add_planes_kernel(
    before,
    here,
    y,
    part,
    start,
    before_start,
    first,
    end,
    depth,
    voxels,
    COUT,
    FIRST: tl.constexpr,
    M: tl.constexpr,
    BN: tl.constexpr,
):
    """Sums up what the planes of a chunk gave to the output planes first to end - 1 of one sample, and merges the moments of
    these into those of the chunks before. A program makes every so manieth tile of M voxels of a plane, all channels.

    Grid: (programs,).

    Volumes, channels innermost:
        before, here: what the planes of the last chunk and of this one give to the planes after, at and before them, half
            precision [planes, voxels, 3 * COUT]
        y: raw output, the same type [D, voxels, COUT]
    Moments:
        part: count, mean, M2 of each program's outputs, float32 [programs, 3, COUT]
    Planes:
        start, before_start: numbers of the first planes of here and before
        first, end: output planes that are finished now
        depth: planes of the volume, D
    Extents:
        voxels: of a plane
        COUT: output channels
    Compile time:
        FIRST: whether this is the first chunk, with no moments to merge into
        M: voxels of a tile
        BN: COUT rounded up to a power of 2, at least 16
    """
    program, programs = tl.program_id(0), tl.num_programs(0)
    channel = tl.arange(0, BN)
    inside = channel < COUT
    tiles = tl.cdiv(voxels, M)
    total = (end - first) * tiles
    count = tl.zeros((), tl.float32)
    sums = tl.zeros((M, BN), tl.float32)
    squares = tl.zeros((M, BN), tl.float32)
    index = tl.minimum(program, total - 1)
    v = (index % tiles) * M + tl.arange(0, M)
    _, origin, _ = tile_moments(
        _sum_at(before, here, start, before_start, depth, first + index // tiles, v, channel, voxels, COUT), v < voxels
    )
    for index in range(program, total, programs):
        z = first + index // tiles
        v = (index % tiles) * M + tl.arange(0, M)
        live = (v < voxels)[:, None]
        out = _sum_at(before, here, start, before_start, depth, z, v, channel, voxels, COUT)
        tl.store(
            y + z.to(tl.int64) * voxels * COUT + v[:, None] * COUT + channel[None, :],
            out.to(y.dtype.element_ty),
            mask=live & inside[None, :],
        )
        off = tl.where(live, out - origin[None, :], 0.0)
        sums += off
        squares += off * off
        count += tl.minimum(voxels - (index % tiles) * M, M).to(tl.float32)
    mean, m2 = moments_of_sums(count, origin, sums, squares)
    if not FIRST:
        row = part + program * 3 * COUT + channel
        count, mean, m2 = merge(
            tl.load(row, mask=inside, other=0.0),
            tl.load(row + COUT, mask=inside, other=0.0),
            tl.load(row + 2 * COUT, mask=inside, other=0.0),
            count,
            mean,
            m2,
        )
    store_moments(part, program, count, mean, m2, channel, COUT)


def pack_planes_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin, 3, 3, 3] for `conv_planes`: Conv2d weight [3 * Cout, Cin, 3, 3], what a plane gives to the
    output plane after it, to its own, and to the one before it."""
    cout, cin = weight.shape[:2]
    return weight.permute(2, 0, 1, 3, 4).reshape(3 * cout, cin, 3, 3).contiguous(memory_format=torch.channels_last)


def conv_planes(x: torch.Tensor, w: torch.Tensor, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x [N, Cin, D, H, W] in channels_last_3d; w of `pack_planes_weight`.

    chunk: planes at a time, at least 2. Returns the output [N, Cout, D, H, W] and its moments [N, rows, 3, Cout].
    """
    if chunk < 2:
        raise ValueError(f"a chunk has {chunk} planes; an output plane needs its neighbours, so at least 2")
    n, _, depth, height, width = x.shape
    cout = w.shape[0] // 3
    voxels = height * width
    block = max(16, triton.next_power_of_2(cout))
    m = max(16, 2048 // block)
    programs = programs_for(x.device)
    y = new_volume(n, cout, (depth, height, width), x)
    part = torch.empty((n, programs, ROWS, cout), dtype=torch.float32, device=x.device)
    for sample in range(n):
        planes = x[sample].transpose(0, 1)  # [D, Cin, H, W] in channels_last
        before = None
        for start in range(0, depth, chunk):
            stop = min(start + chunk, depth)
            here = torch.conv2d(planes[start:stop], w, padding=1).contiguous(memory_format=torch.channels_last)
            # A plane is finished once its successor is there.
            first, end = max(0, start - 1), depth if stop == depth else stop - 1
            _add_planes_kernel[(programs,)](
                here if before is None else before,
                here,
                y[sample],
                part[sample],
                start,
                start - chunk,
                first,
                end,
                depth,
                voxels,
                cout,
                FIRST=start == 0,
                M=m,
                BN=block,
            )
            before = here
    return y, part
