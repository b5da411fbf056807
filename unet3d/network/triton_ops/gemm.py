"""The network's matrix products without a neighbourhood on channels-last volumes: transposed convolutions 2x2x2 and the
1x1x1 head. Both normalise their input while loading it, which saves a pass over it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from unet3d.network.triton_ops.layout import channels_last_strides, new_volume
from unet3d.network.triton_ops.norm import leaky_scale_shift


@triton.jit
def _load_normalised(x, at, live, c, CIN, scale, shift, SLOPE: tl.constexpr):
    """[M, K] of channels c [K] at element offsets `at` [M], normalised; zero where not live and beyond CIN."""
    ok = live[:, None] & (c < CIN)[None, :]
    a = tl.load(x + at[:, None] + c[None, :], mask=ok, other=0.0)
    factor = tl.load(scale + c, mask=c < CIN, other=0.0)[None, :]
    offset = tl.load(shift + c, mask=c < CIN, other=0.0)[None, :]
    return tl.where(ok, leaky_scale_shift(a, factor, offset, SLOPE), 0.0).to(x.dtype.element_ty)


@triton.jit
def _upsample_kernel(
    x,
    scale,
    shift,
    w,
    y,
    D,
    H,
    W,
    CIN,
    COUT,
    y_sample,
    y_voxel,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """A transposed convolution 2x2x2 with stride 2 of leaky_relu(x * scale + shift): a product of [voxels, CIN] and
    [CIN, 8 * COUT], whose columns are the 8 voxels that an input voxel spreads to. A program makes BM x BN of it.

    Grid: (blocks of BM input voxels, blocks of BN columns, N).

    Volumes, channels innermost:
        x: raw input, half precision [N, D, H, W, CIN]
        y: output, the same type [N, 2D, 2H, 2W, COUT], may be channels of a wider tensor
    Normalisation of the input:
        scale, shift: float32 [N, CIN]
    Weights:
        w: of `pack_upsample_weight`, the same type as x [CIN, 8 * COUT], columns of (tap, output channel)
    Extents:
        D, H, W: of the input
        CIN, COUT: input and output channels
    Strides in elements:
        y_sample, y_voxel: from a sample or voxel of y to the next
    Compile time:
        BM, BN, BK: rows, columns and depth of a product
        SLOPE: of LeakyReLU
    """
    block, jblock, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    v = block * BM + tl.arange(0, BM)
    live = v < D * H * W
    j = jblock * BN + tl.arange(0, BN)  # column (tap, output channel) of the weights
    sample = n.to(tl.int64) * D * H * W
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, CIN, BK):
        c = first + tl.arange(0, BK)
        a = _load_normalised(x + sample * CIN, v * CIN, live, c, CIN, scale + n * CIN, shift + n * CIN, SLOPE)
        b = tl.load(w + c[:, None] * (8 * COUT) + j[None, :], mask=(c < CIN)[:, None] & (j < 8 * COUT)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    tap = j // COUT
    z = (2 * (v // (H * W)))[:, None] + (tap // 4)[None, :]
    yy = (2 * ((v // W) % H))[:, None] + ((tap // 2) % 2)[None, :]
    xx = (2 * (v % W))[:, None] + (tap % 2)[None, :]
    at = ((z * (2 * H) + yy) * (2 * W) + xx) * y_voxel + (j % COUT)[None, :]
    tl.store(y + n.to(tl.int64) * y_sample + at, acc.to(y.dtype.element_ty), mask=live[:, None] & (j < 8 * COUT)[None, :])


@triton.jit
def _head_kernel(
    x,
    scale,
    shift,
    w,
    bias,
    y,
    voxels,
    CIN,
    COUT,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """The 1x1x1 convolution of leaky_relu(x * scale + shift) to logits: a product of [voxels, CIN] and [CIN, COUT]. A
    program makes BM rows of it.

    Grid: (blocks of BM voxels, N).

    Volumes, channels innermost:
        x: raw input, half precision [N, voxels, CIN]
        y: logits, the type of w [N, voxels, COUT]
    Normalisation of the input:
        scale, shift: float32 [N, CIN]
    Weights:
        w: [CIN, COUT]
        bias: [COUT], read only with BIAS
    Extents:
        voxels: of a sample
        CIN, COUT: input channels and classes
    Compile time:
        BIAS: whether there is a bias
        BM, BN, BK: rows, columns (COUT rounded up to a power of 2, at least 16) and depth of a product
        SLOPE: of LeakyReLU
    """
    block, n = tl.program_id(0), tl.program_id(1)
    v = block * BM + tl.arange(0, BM)
    live = v < voxels
    j = tl.arange(0, BN)
    sample = n.to(tl.int64) * voxels
    acc = tl.zeros((BM, BN), tl.float32)
    for first in range(0, CIN, BK):
        c = first + tl.arange(0, BK)
        a = _load_normalised(x + sample * CIN, v * CIN, live, c, CIN, scale + n * CIN, shift + n * CIN, SLOPE)
        b = tl.load(w + c[:, None] * COUT + j[None, :], mask=(c < CIN)[:, None] & (j < COUT)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
    if BIAS:
        acc += tl.load(bias + j, mask=j < COUT, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y + sample * COUT + v[:, None] * COUT + j[None, :],
        acc.to(y.dtype.element_ty),
        mask=live[:, None] & (j < COUT)[None, :],
    )


def _whole(x: torch.Tensor) -> None:
    if channels_last_strides(x) != (x.shape[1:].numel(), x.shape[1]):
        raise ValueError("this kernel reads whole channels_last_3d tensors, not slices")


def pack_upsample_weight(weight: torch.Tensor) -> torch.Tensor:
    """ConvTranspose3d weight [Cin, Cout, 2, 2, 2] as [Cin, 8 * Cout], columns in (tap, channel) order."""
    return weight.permute(0, 2, 3, 4, 1).reshape(weight.shape[0], -1).contiguous()


def upsample(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, w: torch.Tensor, slope: float, out: torch.Tensor
) -> torch.Tensor:
    """Transposed convolution 2x2x2 with stride 2 of leaky_relu(x * scale + shift); returns out.

    x [N, C, D, H, W]; scale and shift float32 [N, C]; w [C, 8 * Cout]; out [N, Cout, 2D, 2H, 2W], may be a slice of a
    wider tensor's channels.
    """
    _whole(x)
    y_sample, y_voxel = channels_last_strides(out)
    n, c, d, h, width = x.shape
    cout = w.shape[1] // 8
    bn = min(128, triton.next_power_of_2(8 * cout))
    _upsample_kernel[(triton.cdiv(d * h * width, 128), triton.cdiv(8 * cout, bn), n)](
        x,
        scale,
        shift,
        w,
        out,
        d,
        h,
        width,
        c,
        cout,
        y_sample,
        y_voxel,
        BM=128,
        BN=bn,
        BK=64 if c >= 64 else max(16, triton.next_power_of_2(c)),
        SLOPE=slope,
        num_warps=8,
        num_stages=3,
    )
    return out


def head(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, slope: float
) -> torch.Tensor:
    """1x1x1 convolution of leaky_relu(x * scale + shift): x [N, C, D, H, W] -> logits [N, classes, D, H, W].

    scale and shift float32 [N, C]; w [C, classes]; bias [classes]. Logits are in channels_last_3d.
    """
    _whole(x)
    n, c, d, h, width = x.shape
    classes = w.shape[1]
    y = new_volume(n, classes, (d, h, width), w)
    _head_kernel[(triton.cdiv(d * h * width, 256), n)](
        x,
        scale,
        shift,
        w,
        w if bias is None else bias,
        y,
        d * h * width,
        c,
        classes,
        BIAS=bias is not None,
        BM=256,
        BN=max(16, triton.next_power_of_2(classes)),
        BK=min(64, max(16, triton.next_power_of_2(c))),
        SLOPE=slope,
        num_warps=4,
        num_stages=2,
    )
    return y
