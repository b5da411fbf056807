"""Which form computes each 3x3x3 convolution of the GPU's network: what each form can compute, and what was measured.

`FORMS` says what can be computed, `MEASURED` what was fastest, by architecture. Cards that nobody has measured keep to `SAFE`;
`unet3d.network.gpu_tuning` measures on the card at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from unet3d.config.precisions import PRECISIONS
from unet3d.network import flops
from unet3d.network.cuda_ops import layers
from unet3d.network.inference import InferenceUNet
from unet3d.network.quantization import Ranges
from unet3d.network.triton_ops import march
from unet3d.network.triton_ops.layout import MODALITIES

HALF = tuple(precision.dtype() for precision in PRECISIONS.values() if precision.half)
LIBRARY = "library"
Triple = tuple[int, int, int]
MOST = 1 << 30  # channels: no limit


@dataclass(frozen=True)
class Geometry:
    """A convolution of the network with all that decides how fast each form computes it."""

    batch: int
    extent: Triple  # z, y, x of what it reads
    sources: tuple[int, ...]  # channels of each volume that it reads, an upsampled one first
    outputs: int
    kernel: Triple = (3, 3, 3)
    stride: Triple = (1, 1, 1)
    padding: Triple = (1, 1, 1)
    upsampled: int = 0  # inputs of the transposed convolution in front of it, 0 where there is none
    raw: bool = True  # whether what it reads is still to be normalised and activated
    in_bytes: bool = False  # whether it may multiply bytes

    @property
    def inputs(self) -> int:
        """Channels of all that it reads."""
        return sum(self.sources)

    def __str__(self) -> str:
        told = f"{self.inputs} to {self.outputs} at {'x'.join(map(str, self.extent))}"
        return told if self.stride == (1, 1, 1) else f"{told} with stride {'x'.join(map(str, self.stride))}"


Chooser = Callable[[Geometry], str]


@dataclass(frozen=True)
class Form:
    """A way to compute a convolution. can: whether it computes one of 3x3x3 with padding 1.

    stride: the only one that it has. cuda: of CUDA C++. fused: it normalises while loading and reads two tensors as one.
    in_bytes: it has products of bytes.
    """

    can: Callable[[Geometry], bool]
    stride: Triple = (1, 1, 1)
    cuda: bool = False
    fused: bool = False
    in_bytes: bool = False


def _can_walk(geometry: Geometry) -> bool:
    operand = layers.BYTES if geometry.in_bytes else layers.HALF
    # Behind an upsampling of CUDA C++ the two volumes stay apart, so that each fills whole slabs.
    apart = geometry.sources if geometry.upsampled in layers.UPSAMPLED else (geometry.inputs,)
    # Two volumes have a walk each where only the weights of one have room.
    fits = geometry.inputs <= operand.most_inputs or apart == (operand.most_inputs,) * 2
    return fits and geometry.outputs % layers.OUT == 0 and all(channels % layers.SLAB == 0 for channels in apart)


# Each but the library's, which computes every convolution.
FORMS: dict[str, Form] = {
    "cuda first": Form(lambda g: g.inputs == MODALITIES and g.outputs == layers.OUT, cuda=True),
    "cuda walk": Form(_can_walk, cuda=True, fused=True, in_bytes=True),
    "cuda stride": Form(lambda g: g.inputs == layers.SLAB and g.outputs % layers.STRIDE_OUT == 0, stride=(2, 2, 2), cuda=True),
    "first": Form(lambda g: g.inputs == MODALITIES),
    "march": Form(lambda g: {g.inputs, g.outputs} <= set(march.CHANNELS)),
    "planes": Form(lambda g: True),
}


def candidates(geometry: Geometry, cuda: bool) -> tuple[str, ...]:
    """The forms that can compute a convolution of 16-bit numbers, the library's first.

    cuda: whether kernels of CUDA C++ can run.
    """
    if geometry.kernel != (3, 3, 3) or geometry.padding != (1, 1, 1):
        return (LIBRARY,)
    able = [form for form in FORMS.items() if (cuda or not form[1].cuda) and form[1].stride == geometry.stride]
    return (LIBRARY, *(name for name, form in able if form.can(geometry)))


@dataclass(frozen=True)
class Row:
    """A form that was fastest for convolutions with so many channels, ends included, of those that it can compute.

    narrowing: inputs for each output at least.
    """

    form: str
    inputs: tuple[int, int] = (1, MOST)
    outputs: tuple[int, int] = (1, MOST)
    narrowing: int = 0

    def holds(self, geometry: Geometry) -> bool:
        """Whether it is about this convolution."""
        (least_in, most_in), (least_out, most_out) = self.inputs, self.outputs
        within = least_in <= geometry.inputs <= most_in and least_out <= geometry.outputs <= most_out
        return within and geometry.inputs >= self.narrowing * geometry.outputs


# What was fastest by architecture, as the device names it (benchmarks/gpu_layers.py): the first row that holds, among forms
# that can run, and the library's where none does. Where NVRTC is missing, the rows of CUDA C++ hold for nothing, and those
# below are what was fastest without. Only measured cards stand here.
MEASURED: dict[str, tuple[Row, ...]] = {
    # An H100; two walks, one for each source, an H200.
    "sm_90": (
        Row("cuda stride"),
        Row("cuda walk"),
        Row("cuda first"),
        Row("first"),
        Row("march", inputs=(32, 32), outputs=(32, 32)),
        Row("planes", inputs=(32, MOST), outputs=(1, 32)),
        Row("planes", inputs=(32, MOST), outputs=(33, 128), narrowing=2),
    ),
}
# Libraries pad 4 modalities to the channels of their instructions, on every card.
SAFE: tuple[Row, ...] = (Row("first"),)


@dataclass(frozen=True)
class Choice:
    """What chooses the form of each convolution. source: in words, where the choice is from."""

    choose: Chooser
    source: str


def by_rows(rows: Sequence[Row], cuda: bool) -> Chooser:
    """What chooses the form of the first row that holds. cuda: whether kernels of CUDA C++ can run."""

    def choose(geometry: Geometry) -> str:
        able = candidates(geometry, cuda)
        return next((row.form for row in rows if row.form in able and row.holds(geometry)), LIBRARY)

    return choose


def by_architecture(architecture: str | None, cuda: bool = False) -> Choice:
    """The choice by what was measured on this architecture ("sm_90"), otherwise by the safe rule."""
    if architecture in MEASURED:
        return Choice(by_rows(MEASURED[architecture], cuda), f"measured table {architecture}")
    return Choice(by_rows(SAFE, cuda), f"safe rule: nobody has measured {architecture or 'this kind of GPU'}")


def form_of(geometry: Geometry, dtype: torch.dtype, choose: Chooser) -> str:
    """Which form computes this convolution; in fp32 the library's, since Triton's products would be in TF32."""
    return choose(geometry) if dtype in HALF else LIBRARY


def geometries(network: InferenceUNet, shape: Sequence[int], ranges: Mapping[str, Ranges] | None = None) -> dict[str, Geometry]:
    """Each convolution with a normalisation by its name, for a batch of `shape` [N, 4, D, H, W].

    ranges: of `unet3d.network.quantization.calibrate`, for int8.
    """
    batch, extent = shape[0], _triple(shape[2:])
    found: dict[str, Geometry] = {}

    def add(name: str, conv: nn.Conv3d, up: nn.ConvTranspose3d | None, raw: bool) -> None:
        nonlocal extent
        kernel, stride, padding = (_triple(each) for each in (conv.kernel_size, conv.stride, conv.padding))
        # Bytes of two tensors have two steps, so that these must come apart.
        apart = up is None or up.in_channels in layers.UPSAMPLED
        found[name] = Geometry(
            batch,
            extent,
            (conv.in_channels,) if up is None else (up.out_channels, conv.in_channels - up.out_channels),
            conv.out_channels,
            kernel,
            stride,
            padding,
            upsampled=up.in_channels if up is not None else 0,
            raw=raw,
            in_bytes=name in (ranges or {}) and apart,
        )
        extent = _triple(flops.convolution_extent(extent, kernel, stride, padding))

    for level, stage in enumerate(network.encoder):
        for i, block in enumerate(stage):
            add(f"encoder.{level}.{i}", block.conv, None, raw=level + i > 0)
    for level, (up, stage) in enumerate(zip(network.upsamplings, network.decoder, strict=True)):
        kernel, stride = _triple(up.kernel_size), _triple(up.stride)
        extent = _triple(flops.convolution_extent(extent, kernel, stride, (0, 0, 0), transposed=True))
        for i, block in enumerate(stage):
            add(f"decoder.{level}.{i}", block.conv, None if i else up, raw=True)
    return found


def _triple(values: Sequence[int] | str) -> Triple:
    if isinstance(values, str):  # PyTorch's "same" and "valid"
        raise ValueError(f"padding {values!r} is not supported; numbers are")
    z, y, x = values
    return z, y, x
