"""Layers by the CUDA C++ kernels: packed weights, shapes, and how many programs share out a volume.

Volumes are [N, C, D, H, W] in channels_last_3d, fp16 or bf16. A raw volume comes with the scale and shift, float32
[N, C], that its consumer applies with LeakyReLU; without them it is taken as it is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from unet3d.network.cuda_ops import kernels
from unet3d.network.triton_ops.layout import MODALITIES, channels_last_strides, new_volume
from unet3d.network.triton_ops.norm import ROWS

OUT = 32  # output channels of a program
SLAB = 32  # input channels that are in shared memory at a time
WARPS = 8  # rows of moments that a program makes
THREADS = 512  # of the walking kernels
WALK_PIXELS, STRIDE_PIXELS = 18 * 18, 17 * 33  # of a slab
STRIDE_OUT = 64  # output channels of a program of the strided convolution
MOST_STAGES = 8
UPSAMPLED = (32, 64, 128)  # inputs of an upsampling


@dataclass(frozen=True)
class Operand:
    """How the walking convolution keeps numbers in shared memory, in pieces of 16 bytes."""

    chunks: int  # pieces of a pixel in a slab
    numbers: int  # in a piece
    most_inputs: int  # with more the weights leave no room for two slabs

    def slab_bytes(self, pixels: int) -> int:
        """With the distance between chunks that loading.cuh keeps, and a slab's two barriers."""
        return self.chunks * (-(-pixels * 16 // 128) * 128 + 128 // self.chunks) + 16

    def weight_bytes(self, outputs: int) -> int:
        """Of a slab's weights for three planes."""
        return 9 * self.chunks * 3 * outputs * 16

    def room(self, pixels: int, weights: int) -> tuple[int, int]:
        """Stages of the ring beside `weights` bytes, and the bytes of both."""
        stages = min(MOST_STAGES, (kernels.SHARED_BYTES - weights) // self.slab_bytes(pixels))
        return stages, weights + stages * self.slab_bytes(pixels)


HALF = Operand(chunks=4, numbers=8, most_inputs=64)
BYTES = Operand(chunks=2, numbers=16, most_inputs=128)


def pack_walk_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin, 3, 3, 3], of 16-bit numbers or int8, as [Cout / 32, Cin / 32, 9, chunks, 96, numbers].

    Columns are what a plane gives to the output plane behind it, to its own and to the one in front, 32 channels each,
    in the order in which a thread holds the sums of 8 neighbouring channels. Raises ValueError for other channels than
    multiples of 32, and more inputs than there is room for.
    """
    cout, cin = weight.shape[:2]
    operand = BYTES if weight.dtype == torch.int8 else HALF
    if cout % OUT or cin % SLAB or cin > operand.most_inputs:
        raise ValueError(
            f"the walking convolution has multiples of {OUT} channels, up to {operand.most_inputs} inputs, not {cin} and {cout}"
        )
    #                     block       lane column number slab     chunk, number kz ky kx
    split = weight.reshape(cout // OUT, 4, 4, 2, cin // SLAB, operand.chunks, operand.numbers, 3, 3, 3).flip(7)
    packed = split.permute(0, 4, 8, 9, 5, 7, 2, 1, 3, 6)
    return packed.reshape(cout // OUT, cin // SLAB, 9, operand.chunks, 3 * OUT, operand.numbers).contiguous()


def pack_stride_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, 32, 3, 3, 3] as [Cout / 64, 9, 4, 192, 8].

    Columns are what a plane of odd z gives to the output planes behind it and in front, and one of even z to its own, 64
    channels each. Raises ValueError for other channels than 32 inputs and multiples of 64 outputs.
    """
    cout, cin = weight.shape[:2]
    if cout % STRIDE_OUT or cin != SLAB:
        raise ValueError(f"the strided convolution has {SLAB} inputs and {STRIDE_OUT} outputs or more, not {cin} and {cout}")
    #                     block             half lane column number chunk  number kz ky kx
    split = weight.reshape(cout // STRIDE_OUT, 2, 4, 4, 2, HALF.chunks, HALF.numbers, 3, 3, 3)[:, :, :, :, :, :, :, [2, 0, 1]]
    packed = split.permute(0, 8, 9, 5, 7, 1, 3, 2, 4, 6)
    return packed.reshape(cout // STRIDE_OUT, 9, HALF.chunks, 3 * STRIDE_OUT, HALF.numbers).contiguous()


def pack_first_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [32, 4, 3, 3, 3] as the matrix instructions' registers, [7, 4, 2, 32, 2]. Raises ValueError for others."""
    if weight.shape[:2] != (OUT, MODALITIES):
        raise ValueError(f"the first convolution has {MODALITIES} inputs and {OUT} outputs, not {tuple(weight.shape[:2])}")
    rows = torch.zeros((112, OUT), dtype=weight.dtype, device=weight.device)
    rows[:108] = weight.permute(2, 3, 4, 1, 0).reshape(108, OUT)
    return _registers(rows)


def pack_upsample_weight(weight: torch.Tensor) -> torch.Tensor:
    """ConvTranspose3d weight [Cin, Cout, 2, 2, 2] as the matrix instructions' registers, [Cout / 32, 8, Cin / 16, 4, 2, 32, 2].

    Raises ValueError for inputs other than `UPSAMPLED` and outputs that are no multiple of 32.
    """
    cin, cout = weight.shape[:2]
    if cin not in UPSAMPLED or cout % OUT:
        raise ValueError(f"the upsampling has {UPSAMPLED} inputs and a multiple of {OUT} outputs, not {cin} and {cout}")
    taps = weight.reshape(cin, cout // OUT, OUT, 8).permute(1, 3, 0, 2)
    return torch.stack([torch.stack([_registers(tap) for tap in block]) for block in taps])


def _registers(rows: torch.Tensor) -> torch.Tensor:
    """A matrix [K, 32 channels] as operand B of the 16x8x16 products: [K / 16, 4 columns, 2, 32 lanes, 2].

    Channels are dealt out so that a thread holds the sums of 8 neighbouring ones.
    """
    #                    step pair-of-8 lane%4 two  lane/4: channel / 8, column, odd
    split = rows.reshape(rows.shape[0] // 16, 2, 4, 2, 4, 4, 2)
    return split.permute(0, 5, 1, 4, 6, 2, 3).reshape(-1, 4, 2, 32, 2).contiguous()


@functools.cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _types(x: torch.Tensor) -> tuple[str, ...]:
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"this kernel reads fp16 and bf16, not {str(x.dtype).removeprefix('torch.')}")
    return ("BFLOAT16",) if x.dtype == torch.bfloat16 else ()


def _whole(*volumes: torch.Tensor | None) -> None:
    for x in volumes:
        if x is not None and channels_last_strides(x) != (x.shape[1:].numel(), x.shape[1]):
            raise ValueError("this kernel reads whole channels_last_3d tensors, not slices")


def walk(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    skip: torch.Tensor | None,
    skip_scale: torch.Tensor | None,
    skip_shift: torch.Tensor | None,
    slope: float,
    w: torch.Tensor,
    quantised: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x and, behind it in channels, skip; w of `pack_walk_weight`.

    quantised: for int8 weights, float32 [2 * Cout + 4]: factor and offset of each output, then the steps of x and skip
    and their zeros, as `unet3d.network.quantization` has them.
    Returns the raw output [N, Cout, D, H, W] and its moments [N, rows, 3, Cout].
    """
    _whole(x, skip)
    n, channels, d, h, width = x.shape
    blocks, slabs = w.shape[:2]
    others = 0 if skip is None else skip.shape[1]
    if channels % SLAB or channels + others != slabs * SLAB:
        raise ValueError(f"a weight for {slabs * SLAB} inputs and tensors of {channels} and {others} channels")
    if (w.dtype == torch.int8) != (quantised is not None):
        raise ValueError("int8 weights go with their factors, others without")
    operand = HALF if quantised is None else BYTES
    stages, shared = operand.room(WALK_PIXELS, slabs * operand.weight_bytes(OUT))
    defines = (f"SLABS={slabs}", f"STAGES={stages}", *_types(x), *(() if quantised is None else ("INT8",)))
    kernel = kernels.load("walk", defines, THREADS, shared, x.device.index)
    programs = max(1, _multiprocessors(x.device.index) // (n * blocks))
    y = new_volume(n, blocks * OUT, (d, h, width), x)
    part = torch.empty((n, programs * WARPS, ROWS, blocks * OUT), dtype=torch.float32, device=x.device)
    sources = (x, scale, shift, channels, skip, skip_scale, skip_shift, others)
    kernel.launch((programs, blocks, n), *sources, w, quantised, y, part, d, h, width, slope)
    return y, part


def stride(
    x: torch.Tensor, scale: torch.Tensor | None, shift: torch.Tensor | None, slope: float, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 2, zero padding of 1, of x [N, 32, D, H, W]; w of `pack_stride_weight`.

    Returns the raw output [N, Cout, (D + 1) // 2, (H + 1) // 2, (W + 1) // 2] and its moments [N, rows, 3, Cout].
    """
    _whole(x)
    n, channels, d, h, width = x.shape
    if channels != SLAB:
        raise ValueError(f"the strided convolution reads {SLAB} channels, not {channels}")
    blocks = w.shape[0]
    stages, shared = HALF.room(STRIDE_PIXELS, HALF.weight_bytes(STRIDE_OUT))
    kernel = kernels.load("stride", (f"STAGES={stages}", *_types(x)), THREADS, shared, x.device.index)
    programs = max(1, _multiprocessors(x.device.index) // (n * blocks))
    y = new_volume(n, blocks * STRIDE_OUT, [(extent + 1) // 2 for extent in (d, h, width)], x)
    part = torch.empty((n, programs * WARPS, ROWS, blocks * STRIDE_OUT), dtype=torch.float32, device=x.device)
    kernel.launch((programs, blocks, n), x, scale, shift, w, y, part, d, h, width, slope)
    return y, part


def first(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """3x3x3 convolution, stride 1, zero padding, of x [N, 4, D, H, W]; w of `pack_first_weight`.

    Returns the raw output [N, 32, D, H, W] and its moments [N, rows, 3, 32].
    """
    _whole(x)
    n, channels, d, h, width = x.shape
    if channels != MODALITIES:
        raise ValueError(f"the first convolution reads {MODALITIES} modalities, not {channels}")
    kernel = kernels.load("first", _types(x), 256, 0, x.device.index)
    programs = max(1, 2 * _multiprocessors(x.device.index) // n)
    y = new_volume(n, OUT, (d, h, width), x)
    part = torch.empty((n, programs * WARPS, ROWS, OUT), dtype=torch.float32, device=x.device)
    kernel.launch((programs, 1, n), x, w, y, part, d, h, width)
    return y, part


def upsample(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, slope: float, w: torch.Tensor) -> torch.Tensor:
    """Transposed convolution 2x2x2 with stride 2 of leaky_relu(x * scale + shift); w of `pack_upsample_weight`.

    Returns [N, Cout, 2D, 2H, 2W].
    """
    _whole(x)
    n, channels, d, h, width = x.shape
    blocks, steps = w.shape[0], w.shape[2]
    if channels != 16 * steps:
        raise ValueError(f"a weight for {16 * steps} inputs and a tensor of {channels} channels")
    kernel = kernels.load("upsample", (f"CIN={channels}", *_types(x)), 256, 0, x.device.index)
    programs = max(1, 2 * _multiprocessors(x.device.index) // (n * blocks))
    y = new_volume(n, blocks * OUT, (2 * d, 2 * h, 2 * width), x)
    kernel.launch((programs, blocks, n), x, scale, shift, w, y, d, h, width, slope)
    return y
