"""The network's other products on channels-last volumes: convolutions of many channels or with stride 2, transposed
convolutions 2x2x2 and the 1x1x1 head. Each normalises its input while loading it, as triton_conv does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from unet3d.kernels.triton_norm import (
    ROWS,
    channels_last_strides,
    leaky_scale_shift,
    new_volume,
    store_moments,
    tile_moments,
)


@dataclass(frozen=True)
class Tile:
    """Launch shape: M voxels x N output channels a program, K input channels a step."""

    m: int
    n: int
    k: int
    warps: int
    stages: int

    @property
    def text(self) -> str:
        return f"tile:{self.m}:{self.n}:{self.k}:{self.warps}:{self.stages}"


@triton.jit
def _load_normalised(x, at, live, c, C, scale, shift, NORM: tl.constexpr, SLOPE: tl.constexpr):
    """[M, K] of channels c at element offsets `at` [M], normalised if NORM; zero where not live and beyond C."""
    ok = live[:, None] & (c < C)[None, :]
    a = tl.load(x + at[:, None] + c[None, :], mask=ok, other=0.0)
    if NORM:
        factor = tl.load(scale + c, mask=c < C, other=0.0)[None, :]
        offset = tl.load(shift + c, mask=c < C, other=0.0)[None, :]
        a = tl.where(ok, leaky_scale_shift(a, factor, offset, SLOPE), 0.0).to(x.dtype.element_ty)
    return a


@triton.jit
def _taps_of(acc, x, scale, shift, w, first_input, C, C_ALL, COUT, zz, yy, xx, D, H, W, channel,
             NORM: tl.constexpr, BK: tl.constexpr, SLOPE: tl.constexpr):
    """acc [M, BN] plus the products of 27 taps of one input; zz, yy, xx [M]: input voxel under the kernel's centre."""
    steps = tl.cdiv(C, BK)
    for i in range(27 * steps):
        tap = i // steps
        c = (i % steps) * BK + tl.arange(0, BK)
        iz = zz + (tap // 9 - 1)
        iy = yy + ((tap // 3) % 3 - 1)
        ix = xx + (tap % 3 - 1)
        ok = (iz >= 0) & (iz < D) & (iy >= 0) & (iy < H) & (ix >= 0) & (ix < W)
        a = _load_normalised(x, ((iz * H + iy) * W + ix) * C, ok, c, C, scale, shift, NORM, SLOPE)
        b = tl.load(w + (tap * C_ALL + first_input + c[:, None]) * COUT + channel[None, :],
                    mask=(c < C)[:, None] & (channel < COUT)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def _taps_kernel(x0, scale0, shift0, x1, scale1, shift1, w, y, part, D, H, W, OD, OH, OW, C0, C1, COUT,
                 STRIDE: tl.constexpr, TWO: tl.constexpr, NORM0: tl.constexpr, NORM1: tl.constexpr,
                 BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SLOPE: tl.constexpr):
    block, cblock, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    v = block * BM + tl.arange(0, BM)
    voxels = OD * OH * OW
    # Rows past the end are computed from a voxel far outside, whose taps are all zero.
    live = v < voxels
    zz = tl.where(live, (v // (OH * OW)) * STRIDE, -2)
    yy = ((v // OW) % OH) * STRIDE
    xx = (v % OW) * STRIDE
    channel = cblock * BN + tl.arange(0, BN)
    sample = n.to(tl.int64) * D * H * W
    acc = tl.zeros((BM, BN), tl.float32)
    acc = _taps_of(acc, x0 + sample * C0, scale0 + n * C0, shift0 + n * C0, w, 0, C0, C0 + C1, COUT, zz, yy, xx,
                   D, H, W, channel, NORM0, BK, SLOPE)
    if TWO:
        acc = _taps_of(acc, x1 + sample * C1, scale1 + n * C1, shift1 + n * C1, w, C0, C1, C0 + C1, COUT, zz, yy, xx,
                       D, H, W, channel, NORM1, BK, SLOPE)
    tl.store(y + n.to(tl.int64) * voxels * COUT + (v * COUT)[:, None] + channel[None, :], acc.to(y.dtype.element_ty),
             mask=live[:, None] & (channel < COUT)[None, :])
    rows, mean, m2 = tile_moments(acc, live)
    store_moments(part, n * tl.num_programs(0) + block, rows, mean, m2, channel, COUT)


@triton.jit
def _upsample_kernel(x, scale, shift, w, y, D, H, W, C, COUT, NORM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                     BK: tl.constexpr, SLOPE: tl.constexpr):
    block, jblock, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    v = block * BM + tl.arange(0, BM)
    live = v < D * H * W
    j = jblock * BN + tl.arange(0, BN)  # column (tap, output channel) of the weights
    sample = n.to(tl.int64) * D * H * W
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, C, BK):
        c = first + tl.arange(0, BK)
        a = _load_normalised(x + sample * C, v * C, live, c, C, scale + n * C, shift + n * C, NORM, SLOPE)
        b = tl.load(w + c[:, None] * (8 * COUT) + j[None, :], mask=(c < C)[:, None] & (j < 8 * COUT)[None, :],
                    other=0.0)
        acc = tl.dot(a, b, acc)
    tap = j // COUT
    z = (2 * (v // (H * W)))[:, None] + (tap // 4)[None, :]
    yy = (2 * ((v // W) % H))[:, None] + ((tap // 2) % 2)[None, :]
    xx = (2 * (v % W))[:, None] + (tap % 2)[None, :]
    at = ((z * (2 * H) + yy) * (2 * W) + xx) * COUT + (j % COUT)[None, :]
    tl.store(y + sample * 8 * COUT + at, acc.to(y.dtype.element_ty), mask=live[:, None] & (j < 8 * COUT)[None, :])


@triton.jit
def _head_kernel(x, scale, shift, w, bias, y, voxels, C, CLASSES, NORM: tl.constexpr, BIAS: tl.constexpr,
                 BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SLOPE: tl.constexpr):
    block, n = tl.program_id(0), tl.program_id(1)
    v = block * BM + tl.arange(0, BM)
    live = v < voxels
    j = tl.arange(0, BN)
    sample = n.to(tl.int64) * voxels
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, C, BK):
        c = first + tl.arange(0, BK)
        a = _load_normalised(x + sample * C, v * C, live, c, C, scale + n * C, shift + n * C, NORM, SLOPE)
        b = tl.load(w + c[:, None] * CLASSES + j[None, :], mask=(c < C)[:, None] & (j < CLASSES)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    if BIAS:
        acc += tl.load(bias + j, mask=j < CLASSES, other=0.0).to(tl.float32)[None, :]
    logits = tl.trans(acc).to(y.dtype.element_ty)
    tl.store(y + sample * CLASSES + (j * voxels)[:, None] + v[None, :], logits,
             mask=(j < CLASSES)[:, None] & live[None, :])


def _whole(x: torch.Tensor) -> None:
    if channels_last_strides(x) != (x.shape[1:].numel(), x.shape[1]):
        raise ValueError("this kernel reads whole channels_last_3d tensors, not slices")


def conv_taps(x0: torch.Tensor, scale0: torch.Tensor | None, shift0: torch.Tensor | None, x1: torch.Tensor | None,
              scale1: torch.Tensor | None, shift1: torch.Tensor | None, w: torch.Tensor, stride: int, slope: float,
              tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution with stride 1 or 2 and padding 1 of x0 [N, C0, D, H, W], or of x0 and x1 side by side.

    w [27, C0 + C1, Cout]. An input with scale and shift [N, C] is normalised while it is loaded. Returns the output
    [N, Cout, D/stride, H/stride, W/stride] and its moments [N, rows, 3, Cout].
    """
    _whole(x0)
    if x1 is not None:
        _whole(x1)
    n, c0, *extent = x0.shape
    out = tuple((e - 1) // stride + 1 for e in extent)
    cout = w.shape[2]
    y = new_volume(n, cout, out, w)
    blocks = triton.cdiv(out[0] * out[1] * out[2], tile.m)
    part = torch.empty((n, blocks, ROWS, cout), dtype=torch.float32, device=x0.device)
    _taps_kernel[(blocks, triton.cdiv(cout, tile.n), n)](
        x0, w if scale0 is None else scale0, w if shift0 is None else shift0, x0 if x1 is None else x1,
        w if scale1 is None else scale1, w if shift1 is None else shift1, w, y, part, *extent, *out, c0,
        0 if x1 is None else x1.shape[1], cout, STRIDE=stride, TWO=x1 is not None, NORM0=scale0 is not None,
        NORM1=scale1 is not None, BM=tile.m, BN=tile.n, BK=tile.k, SLOPE=slope,
        num_warps=tile.warps, num_stages=tile.stages)
    return y, part


def pack_upsample_weight(weight: torch.Tensor) -> torch.Tensor:
    """ConvTranspose3d weight [Cin, Cout, 2, 2, 2] as [Cin, 8 * Cout], columns in (tap, channel) order."""
    return weight.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1).contiguous()


def upsample(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, w: torch.Tensor,
             slope: float) -> torch.Tensor:
    """Transposed convolution 2x2x2 with stride 2: [N, C, D, H, W] -> [N, Cout, 2D, 2H, 2W]; w [C, 8 * Cout]."""
    _whole(x)
    n, c, d, h, width = x.shape
    cout = w.shape[1] // 8
    if d * h * width * 8 * cout >= 2**31:
        raise ValueError(f"volume of shape {tuple(x.shape)}: one sample of the output has 2**31 elements or more")
    y = new_volume(n, cout, (2 * d, 2 * h, 2 * width), w)
    bn = min(128, triton.next_power_of_2(8 * cout))
    norm = scale is not None
    _upsample_kernel[(triton.cdiv(d * h * width, 128), triton.cdiv(8 * cout, bn), n)](
        x, scale if norm else w, shift if norm else w, w, y, d, h, width, c, cout, NORM=norm, BM=128, BN=bn,
        BK=64 if c >= 64 else max(16, triton.next_power_of_2(c)), SLOPE=slope, num_warps=8, num_stages=3)
    return y


def head(x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, w: torch.Tensor,
         bias: torch.Tensor | None, slope: float) -> torch.Tensor:
    """1x1x1 convolution [N, C, D, H, W] -> logits [N, classes, D, H, W], contiguous; w [C, classes]."""
    _whole(x)
    n, c, d, h, width = x.shape
    classes = w.shape[1]
    y = torch.empty((n, classes, d, h, width), dtype=w.dtype, device=x.device)
    norm = scale is not None
    _head_kernel[(triton.cdiv(d * h * width, 256), n)](
        x, scale if norm else w, shift if norm else w, w, w if bias is None else bias, y, d * h * width, c, classes,
        NORM=norm, BIAS=bias is not None, BM=256, BN=max(16, triton.next_power_of_2(classes)),
        BK=min(64, max(16, triton.next_power_of_2(c))), SLOPE=slope, num_warps=4, num_stages=2)
    return y
