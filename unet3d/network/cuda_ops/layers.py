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
THREADS, LOADERS = 512, 128  # of the walking kernels, and those of a group that loads
WALK_TILES = ((16, 16), (32, 8))  # pixels of a program, y and x
STRIDE_PIXELS = 17 * 33  # of a slab
STRIDE_OUT = 64  # output channels of a program of the strided convolution
MOST_STAGES = 8
HEAD_INPUTS = 32
UPSAMPLED = (32, 64, 128, 256)  # inputs of an upsampling


@dataclass(frozen=True)
class Operand:
    """How the walking convolution keeps numbers in shared memory, in pieces of 16 bytes."""

    chunks: int  # pieces of a pixel in a slab
    numbers: int  # in a piece
    most_inputs: int  # of a walk: with more the weights leave room for few slabs, or none
    by_shared_memory: bool  # what is loaded waits there to be made numbers of a slab

    def slab_bytes(self, pixels: int) -> int:
        """With the distance between chunks that ring.cuh keeps, and a slab's two barriers."""
        return self.chunks * (-(-pixels * 16 // 128) * 128 + 128 // self.chunks) + 16

    def weight_bytes(self, outputs: int) -> int:
        """Of a slab's weights for three planes."""
        return 9 * self.chunks * 3 * outputs * 16

    def room(self, pixels: int, weights: int) -> tuple[int, int]:
        """Stages of the ring beside `weights` bytes and what is on its way, and the bytes of all."""
        loads = -(-pixels * 4 // LOADERS) * 2 * LOADERS * 16 if self.by_shared_memory else 0
        stages = min(MOST_STAGES, (kernels.SHARED_BYTES - weights - loads) // self.slab_bytes(pixels))
        return stages, weights + stages * self.slab_bytes(pixels) + loads


HALF = Operand(chunks=4, numbers=8, most_inputs=64, by_shared_memory=False)
BYTES = Operand(chunks=2, numbers=16, most_inputs=128, by_shared_memory=True)


def pack_walk_weight(weight: torch.Tensor) -> torch.Tensor:
    """Conv3d weight [Cout, Cin, 3, 3, 3], of 16-bit numbers or int8, as [walks, Cout / 32, slabs, 9, chunks, 96, numbers].

    Columns are what a plane gives to the output plane behind it, to its own and to the one in front, 32 channels each,
    in the order in which a thread holds the sums of 8 neighbouring channels. Twice as many
    inputs as a walk has room for are two walks, half of them each. Raises ValueError for other channels than multiples of 32,
    and for other numbers of inputs that have no room.
    """
    cout, cin = weight.shape[:2]
    operand = BYTES if weight.dtype == torch.int8 else HALF
    walks = 2 if cin == 2 * operand.most_inputs else 1
    slabs = cin // walks // SLAB
    if cout % OUT or cin % SLAB or slabs * SLAB > operand.most_inputs:
        raise ValueError(
            f"the walking convolution has multiples of {OUT} channels, up to {operand.most_inputs} inputs in one walk and "
            f"twice as many in two, not {cin} and {cout}"
        )
    #                     block     lane column number walk slab      chunk, number kz ky kx
    split = weight.reshape(cout // OUT, 4, 4, 2, walks, slabs, operand.chunks, operand.numbers, 3, 3, 3).flip(8)
    packed = split.permute(4, 0, 5, 9, 10, 6, 8, 2, 1, 3, 7)
    return packed.reshape(walks, cout // OUT, slabs, 9, operand.chunks, 3 * OUT, operand.numbers).contiguous()


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

    A weight for two walks has one for x and one for skip. Sums that go from the first to the second are 32-bit, as all are.
    quantised: for int8 weights, float32 [2 * Cout + 4]: factor and offset of each output, then the steps of x and skip
    and their zeros, as `unet3d.network.quantization` has them.
    Returns the raw output [N, Cout, D, H, W] and its moments [N, rows, 3, Cout].
    """
    _whole(x, skip)
    n, channels, d, h, width = x.shape
    walks, blocks, slabs = w.shape[:3]
    others = 0 if skip is None else skip.shape[1]
    if channels % SLAB or channels + others != walks * slabs * SLAB or (walks == 2 and channels != others):
        raise ValueError(f"a weight for {walks} times {slabs * SLAB} inputs and tensors of {channels} and {others} channels")
    if (w.dtype == torch.int8) != (quantised is not None):
        raise ValueError("int8 weights go with their factors, others without")
    operand = HALF if quantised is None else BYTES
    tile = walk_tile(h, width)
    stages, shared = walk_room(operand, slabs, tile)
    defines = (
        f"SLABS={slabs}",
        f"STAGES={stages}",
        f"TILE_Y={tile[0]}",
        f"TILE_X={tile[1]}",
        *_types(x),
        *(() if quantised is None else ("INT8",)),
    )
    programs = max(1, _multiprocessors(x.device.index) // (n * blocks))
    y = new_volume(n, blocks * OUT, (d, h, width), x)
    part = torch.empty((n, programs, ROWS, blocks * OUT), dtype=torch.float32, device=x.device)

    def launch(which: tuple[str, ...], sources: tuple, weight: torch.Tensor, *results: torch.Tensor | None) -> None:
        kernel = kernels.load("walk", defines + which, THREADS, shared, x.device.index)
        kernel.launch((programs, blocks, n), *sources, weight, quantised, *results, d, h, width, slope)

    first, second = (x, scale, shift, channels), (skip, skip_scale, skip_shift, others)
    if walks == 1:
        launch((), (*first, *second), w, y, None, part)
        return y, part
    none = (None, None, None, 0)
    sums = torch.float32 if quantised is None else torch.int32
    between = torch.empty((n, d, h, width, blocks * OUT), dtype=sums, device=x.device)
    launch(("GIVES_SUMS",), (*first, *none), w[0], None, between, None)
    launch(("TAKES_SUMS",), (*second, *none), w[1], y, between, part)
    return y, part


def walk_tile(height: int, width: int) -> tuple[int, int]:
    """The tile of which the fewest cover a plane, y and x: what lies beyond the plane is multiplied too."""
    return min(WALK_TILES, key=lambda tile: -(-height // tile[0]) * -(-width // tile[1]))


def walk_room(operand: Operand, slabs: int, tile: tuple[int, int]) -> tuple[int, int]:
    """`Operand.room` of a walk with so many slabs of inputs; a slab has the tile's pixels and their neighbours."""
    return operand.room((tile[0] + 2) * (tile[1] + 2), slabs * operand.weight_bytes(OUT))


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
    part = torch.empty((n, programs, ROWS, blocks * STRIDE_OUT), dtype=torch.float32, device=x.device)
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
    part = torch.empty((n, programs, ROWS, OUT), dtype=torch.float32, device=x.device)
    kernel.launch((programs, 1, n), x, w, y, part, d, h, width)
    return y, part


def head(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, slope: float
) -> torch.Tensor:
    """1x1x1 convolution of leaky_relu(x * scale + shift), x [N, 32, D, H, W]; w [32, classes] and bias of x's type.

    Returns logits [N, classes, D, H, W]. Raises ValueError for other inputs, and for classes that are odd or more than 8.
    """
    _whole(x)
    n, channels, d, h, width = x.shape
    classes = w.shape[1]
    if w.shape[0] != channels or not can_head(channels, classes):
        raise ValueError(f"the head has {HEAD_INPUTS} inputs and 2, 4, 6 or 8 classes, not {channels} and {classes}")
    kernel = kernels.load("head", _types(x), 256, 0, x.device.index)
    y = new_volume(n, classes, (d, h, width), x)
    programs = max(1, 4 * _multiprocessors(x.device.index) // n)
    kernel.launch((programs, 1, n), x, scale, shift, w, bias, y, d * h * width, classes, slope)
    return y


def can_head(inputs: int, classes: int) -> bool:
    """Whether `head` computes a convolution to these classes."""
    return inputs == HEAD_INPUTS and classes % 2 == 0 and 0 < classes <= 8


def upsample(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, slope: float, w: torch.Tensor) -> torch.Tensor:
    """Transposed convolution 2x2x2 with stride 2 of leaky_relu(x * scale + shift); w of `pack_upsample_weight`.

    Returns [N, Cout, 2D, 2H, 2W].
    """
    _whole(x)
    n, channels, d, h, width = x.shape
    blocks, steps = w.shape[0], w.shape[2]
    if channels != 16 * steps:
        raise ValueError(f"a weight for {16 * steps} inputs and a tensor of {channels} channels")
    resident = upsample_programs(channels)
    defines = (f"CIN={channels}", f"PROGRAMS={resident}", *_types(x))
    kernel = kernels.load("upsample", defines, 256, 0, x.device.index)
    programs = max(1, resident * _multiprocessors(x.device.index) // (n * blocks))
    y = new_volume(n, blocks * OUT, (2 * d, 2 * h, 2 * width), x)
    kernel.launch((programs, blocks, n), x, scale, shift, w, y, d, h, width, slope)
    return y


def upsample_programs(channels: int) -> int:
    """Programs of an upsampling that share a multiprocessor: their weights fill its registers."""
    return 1 if channels > 128 else 2
