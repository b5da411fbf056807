"""3x3x3 convolution of few channels, the half of this network's arithmetic where libraries are weakest.

With 32 output channels a convolution written as a matrix product reads each input tile 27 times for very little
arithmetic. Here a program owns a tile of the (y, x) plane and walks along z: each input plane is loaded for the 9
taps of the plane and multiplied by three weights at once, for the output planes behind, at and in front of it. That
is a third of the loads, and all 27 weights stay in shared memory for the whole walk.

Also done in the same pass, each of which would else be a pass over the volume:

- the producer's normalisation and LeakyReLU, while loading (`scale`, `shift`; zero padding comes after them),
- the moments of the output for the next normalisation, from the float32 accumulators,
- the concatenation with the skip connection: a second input with its own weights.

The convolution's bias is left out everywhere: the instance normalisation that follows subtracts it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from unet3d.kernels.triton_norm import (
    ROWS,
    channels_last_strides,
    leaky_scale_shift,
    merge,
    new_volume,
    store_moments,
    tile_moments,
)


@dataclass(frozen=True)
class Column:
    """Launch shape of the walking kernels: BY x BX outputs of a plane and `planes` planes a program."""

    by: int
    bx: int
    planes: int
    warps: int
    stages: int

    @property
    def text(self) -> str:
        return f"column:{self.by}:{self.bx}:{self.planes}:{self.warps}:{self.stages}"


@triton.jit
def _load_weight(w, tap, first_input, CIN: tl.constexpr, CIN_ALL: tl.constexpr, COUT, channel):
    k = first_input + tl.arange(0, CIN)
    return tl.load(w + (tap * CIN_ALL + k[:, None]) * COUT + channel[None, :])


@triton.jit
def _load_tap(x, z, yy, xx, t: tl.constexpr, D, H, W, scale, shift, CIN: tl.constexpr, NORM: tl.constexpr,
              SLOPE: tl.constexpr):
    """Input [M, CIN] for tap t of the plane z, normalised if NORM, zero outside the volume."""
    iz = tl.zeros_like(yy) + z
    iy = yy + (t // 3 - 1)
    ix = xx + (t % 3 - 1)
    ok = (iz >= 0) & (iz < D) & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
    a = tl.load(x + (((z * H + iy) * W + ix) * CIN)[:, None] + tl.arange(0, CIN)[None, :], mask=ok[:, None], other=0.0)
    if NORM:
        a = tl.where(ok[:, None], leaky_scale_shift(a, scale, shift, SLOPE), 0.0).to(x.dtype.element_ty)
    return a


@triton.jit
def _load_first_tap(x, z, yy, xx, t: tl.constexpr, D, H, W, channel_stride, voxel_stride, CIN: tl.constexpr,
                    DTYPE: tl.constexpr):
    """Input [M, 16] for row t = (kz, ky) of the first layer: 4 neighbours along x of up to 4 channels each, of which
    the fourth neighbour has zero weights. One matrix product of depth 16 instead of three of depth 4."""
    k = tl.arange(0, 16)
    iz = tl.zeros_like(yy) + z
    iy = yy + (t - 1)
    ix = xx[:, None] + (k // 4 - 1)[None, :]
    c = k % 4
    ok = ((iz >= 0) & (iz < D) & (iy >= 0) & (iy < H))[:, None] & (ix >= 0) & (ix < W) & ((c < CIN) & (k < 12))[None, :]
    at = ((z * H + iy) * W)[:, None] + ix
    return tl.load(x + at * voxel_stride + (c * channel_stride)[None, :], mask=ok, other=0.0).to(DTYPE)


@triton.jit
def _finish_plane(y, out, o, first, last, yy, xx, H, W, COUT, channel, count, mean, m2):
    """Store an output plane first <= o < last [M, BN] and add it to the moments; another is left out.

    By mask and not by a branch: Triton 3.6 cannot compile these products next to one.
    """
    oo = tl.zeros_like(yy) + o
    live = (oo >= first) & (oo < last) & (yy < H) & (xx < W)
    rows, plane_mean, plane_m2 = tile_moments(out, live)
    tl.store(y + (((o * H + yy) * W + xx) * COUT)[:, None] + channel[None, :], out.to(y.dtype.element_ty),
             mask=live[:, None])
    return merge(count, mean, m2, rows, plane_mean, plane_m2)


@triton.jit
def _column_kernel(x0, scale0, shift0, x1, scale1, shift1, w, y, part, D, H, W, COUT,
                   CIN0: tl.constexpr, CIN1: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
                   BY: tl.constexpr, BX: tl.constexpr, PLANES: tl.constexpr, BN: tl.constexpr, SLOPE: tl.constexpr):
    tiles_x = tl.cdiv(W, BX)
    tile, z_block, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_blocks = COUT // BN
    cblock = tile % n_blocks
    tile = tile // n_blocks
    m = tl.arange(0, BY * BX)
    yy = (tile // tiles_x) * BY + m // BX
    xx = (tile % tiles_x) * BX + m % BX
    channel = cblock * BN + tl.arange(0, BN)
    sample = n.to(tl.int64) * D * H * W
    x0 += sample * CIN0
    y += sample * COUT
    s0 = tl.load(scale0 + n * CIN0 + tl.arange(0, CIN0))[None, :] if NORM0 else 0.0
    h0 = tl.load(shift0 + n * CIN0 + tl.arange(0, CIN0))[None, :] if NORM0 else 0.0
    s1 = 0.0
    h1 = 0.0
    weights0 = ()
    weights1 = ()
    for t in tl.static_range(9):
        for kz in tl.static_range(3):
            weights0 = weights0 + (_load_weight(w, kz * 9 + t, 0, CIN0, CIN0 + CIN1, COUT, channel),)
    if CIN1 > 0:
        x1 += sample * CIN1
        if NORM1:
            s1 = tl.load(scale1 + n * CIN1 + tl.arange(0, CIN1))[None, :]
            h1 = tl.load(shift1 + n * CIN1 + tl.arange(0, CIN1))[None, :]
        for t in tl.static_range(9):
            for kz in tl.static_range(3):
                weights1 = weights1 + (_load_weight(w, kz * 9 + t, CIN0, CIN1, CIN0 + CIN1, COUT, channel),)
    # What earlier input planes gave to the output planes z - 1 and z.
    behind = tl.zeros((BY * BX, BN), tl.float32)
    at = tl.zeros((BY * BX, BN), tl.float32)
    count = tl.zeros((), tl.float32)
    mean = tl.zeros((BN,), tl.float32)
    m2 = tl.zeros((BN,), tl.float32)
    first = z_block * PLANES
    last = tl.minimum(first + PLANES, D)
    for step in range(PLANES + 2):
        z = first - 1 + step
        p0 = tl.zeros((BY * BX, BN), tl.float32)
        p1 = tl.zeros((BY * BX, BN), tl.float32)
        p2 = tl.zeros((BY * BX, BN), tl.float32)
        for t in tl.static_range(9):
            a = _load_tap(x0, z, yy, xx, t, D, H, W, s0, h0, CIN0, NORM0, SLOPE)
            p0 = tl.dot(a, weights0[3 * t], p0)
            p1 = tl.dot(a, weights0[3 * t + 1], p1)
            p2 = tl.dot(a, weights0[3 * t + 2], p2)
            if CIN1 > 0:
                b = _load_tap(x1, z, yy, xx, t, D, H, W, s1, h1, CIN1, NORM1, SLOPE)
                p0 = tl.dot(b, weights1[3 * t], p0)
                p1 = tl.dot(b, weights1[3 * t + 1], p1)
                p2 = tl.dot(b, weights1[3 * t + 2], p2)
        count, mean, m2 = _finish_plane(y, behind + p2, z - 1, first, last, yy, xx, H, W, COUT, channel, count, mean,
                                        m2)
        behind = at + p1
        at = p0
    row = (n * tl.num_programs(1) + z_block) * (tl.num_programs(0) // n_blocks) + tile
    store_moments(part, row, count, mean, m2, channel, COUT)


@triton.jit
def _first_kernel(x, w, y, part, D, H, W, COUT, sample_stride, channel_stride, voxel_stride, CIN: tl.constexpr,
                  BY: tl.constexpr, BX: tl.constexpr, PLANES: tl.constexpr, BN: tl.constexpr):
    tiles_x = tl.cdiv(W, BX)
    tile, z_block, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_blocks = COUT // BN
    cblock = tile % n_blocks
    tile = tile // n_blocks
    m = tl.arange(0, BY * BX)
    yy = (tile // tiles_x) * BY + m // BX
    xx = (tile % tiles_x) * BX + m % BX
    channel = cblock * BN + tl.arange(0, BN)
    x += n.to(tl.int64) * sample_stride
    y += n.to(tl.int64) * D * H * W * COUT
    weights = ()
    for t in tl.static_range(3):
        for kz in tl.static_range(3):
            weights = weights + (_load_weight(w, kz * 3 + t, 0, 16, 16, COUT, channel),)
    behind = tl.zeros((BY * BX, BN), tl.float32)
    at = tl.zeros((BY * BX, BN), tl.float32)
    count = tl.zeros((), tl.float32)
    mean = tl.zeros((BN,), tl.float32)
    m2 = tl.zeros((BN,), tl.float32)
    first = z_block * PLANES
    last = tl.minimum(first + PLANES, D)
    for step in range(PLANES + 2):
        z = first - 1 + step
        p0 = tl.zeros((BY * BX, BN), tl.float32)
        p1 = tl.zeros((BY * BX, BN), tl.float32)
        p2 = tl.zeros((BY * BX, BN), tl.float32)
        for t in tl.static_range(3):
            a = _load_first_tap(x, z, yy, xx, t, D, H, W, channel_stride, voxel_stride, CIN, w.dtype.element_ty)
            p0 = tl.dot(a, weights[3 * t], p0)
            p1 = tl.dot(a, weights[3 * t + 1], p1)
            p2 = tl.dot(a, weights[3 * t + 2], p2)
        count, mean, m2 = _finish_plane(y, behind + p2, z - 1, first, last, yy, xx, H, W, COUT, channel, count, mean,
                                        m2)
        behind = at + p1
        at = p0
    row = (n * tl.num_programs(1) + z_block) * (tl.num_programs(0) // n_blocks) + tile
    store_moments(part, row, count, mean, m2, channel, COUT)


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin, 3, 3, 3] as the kernels read it: [27, Cin, Cout], taps in (z, y, x) order."""
    return weight.permute(2, 3, 4, 1, 0).reshape(27, weight.shape[1], weight.shape[0]).contiguous()


def pack_first_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin <= 4, 3, 3, 3] for the first layer: [9, 16, Cout], a row being 4 x-neighbours of 4
    channels; what is padding is zero."""
    cout, cin = weight.shape[:2]
    packed = torch.zeros((3, 3, 4, 4, cout), dtype=weight.dtype, device=weight.device)
    packed[:, :, :3, :cin] = weight.permute(2, 3, 4, 1, 0)
    return packed.reshape(9, 16, cout)


def _new_output(x: torch.Tensor, w: torch.Tensor, shape: Column, block: int) -> tuple:
    n, _, d, h, width = x.shape
    tiles = triton.cdiv(h, shape.by) * triton.cdiv(width, shape.bx)
    z_blocks = triton.cdiv(d, shape.planes)
    y = new_volume(n, w.shape[2], (d, h, width), w)
    part = torch.empty((n, z_blocks * tiles, ROWS, w.shape[2]), dtype=torch.float32, device=x.device)
    return y, part, (tiles * (w.shape[2] // block), z_blocks, n)


def conv_column(x0: torch.Tensor, scale0: torch.Tensor | None, shift0: torch.Tensor | None, x1: torch.Tensor | None,
                scale1: torch.Tensor | None, shift1: torch.Tensor | None, w: torch.Tensor, slope: float,
                shape: Column) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x0 [N, C0, D, H, W], or of x0 and x1 side by side.

    Each input is normalised while it is loaded if its scale and shift [N, C] are given. C0 and C1 must be powers of
    two of at least 16, Cout a multiple of 32 or 16. Returns the output [N, Cout, D, H, W] and its moments
    [N, rows, 3, Cout].
    """
    for x in (x0, x1):
        if x is not None and channels_last_strides(x) != (x.shape[1:].numel(), x.shape[1]):
            raise ValueError("the walking convolution reads whole channels_last_3d tensors, not slices")
    cout = w.shape[2]
    block = 32 if cout % 32 == 0 else 16
    y, part, grid = _new_output(x0, w, shape, block)
    d, h, width = x0.shape[2:]
    # A kernel wants a pointer for every argument; one it does not read is given any tensor.
    _column_kernel[grid](
        x0, w if scale0 is None else scale0, w if shift0 is None else shift0, x0 if x1 is None else x1,
        w if scale1 is None else scale1, w if shift1 is None else shift1, w, y, part, d, h, width, cout,
        CIN0=x0.shape[1], CIN1=0 if x1 is None else x1.shape[1], NORM0=scale0 is not None, NORM1=scale1 is not None,
        BY=shape.by, BX=shape.bx, PLANES=shape.planes, BN=block, SLOPE=slope,
        num_warps=shape.warps, num_stages=shape.stages)
    return y, part


def conv_first(x: torch.Tensor, w: torch.Tensor, shape: Column) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, of the network's input [N, Cin <= 4, D, H, W] with weights [9, 16, Cout].

    x may be float32 (converted while loading), contiguous or channels last. Returns as `conv_column` does.
    """
    n, cin, d, h, width = x.shape
    voxel = x.stride(4)
    if cin > 4 or x.stride(3) != width * voxel or x.stride(2) != h * width * voxel:
        raise ValueError(f"network input of shape {tuple(x.shape)} with strides {x.stride()} is not supported")
    block = 32 if w.shape[2] % 32 == 0 else 16
    y, part, grid = _new_output(x, w, shape, block)
    _first_kernel[grid](x, w, y, part, d, h, width, w.shape[2], x.stride(0), x.stride(1), voxel, CIN=cin, BY=shape.by,
                        BX=shape.bx, PLANES=shape.planes, BN=block, num_warps=shape.warps, num_stages=shape.stages)
    return y, part
