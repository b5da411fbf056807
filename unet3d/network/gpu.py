"""nnU-Net's Generic_UNet in a form made for GPUs: half-precision matrix units kept busy, few passes over memory.

The result is that of nnU-Net's own forward; what differs is where the time goes:

- everything is in channels_last_3d, the layout that matrix units want, from the first layer to the last,
- where a convolution has a CUDA kernel of ours, it reads the raw output of the layer before and normalises and activates
  it while loading, and gives the moments for the next normalisation with its own: one pass over memory a layer. A
  decoder's convolution then reads the upsampled volume and the skip connection from where they are,
- elsewhere instance normalisation and LeakyReLU are two Triton passes that keep the layout: one for the moments, one to
  apply them. The head and the transposed convolutions apply them while loading; the transposed convolution and the skip
  connection are written side by side instead of being concatenated,
- which convolution has which form was measured (`unet3d.network.gpu_forms`); many are fastest in the library (cuDNN, oneDNN).

In fp32 every product is the library's, in full fp32, since Triton's would be in TF32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import cast

import torch
from torch import nn

from unet3d.config.precisions import PRECISIONS
from unet3d.network.cuda_ops import layers
from unet3d.network.cuda_ops import ops as _cuda_ops  # noqa: F401 - registers torch.ops.unet3d.conv_cuda_*
from unet3d.network.flops import Executed
from unet3d.network.gpu_forms import FORMS, HALF, LIBRARY, Chooser, form_of, geometries
from unet3d.network.inference import ConvNormAct, InferenceUNet
from unet3d.network.quantization import Ranges, quantise
from unet3d.network.triton_ops import ops  # noqa: F401 - registers torch.ops.unet3d
from unet3d.network.triton_ops.conv import pack_first_weight
from unet3d.network.triton_ops.gemm import pack_upsample_weight
from unet3d.network.triton_ops.march import pack_march_weight
from unet3d.network.triton_ops.planes import pack_planes_weight
from unet3d.workload import input_shape

STANDARD = input_shape()  # one volume of the benchmark
# Planes that `conv_planes` works off at a time: fewer are slower, more need memory for three times the output.
CHUNK = 112

# A convolution's output with its normalisation's scale and shift; without these it is taken as it is.
Raw = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
NOTHING = (None, None, None)


class Block(nn.Module):
    """3x3x3 convolution and the scale and shift of the instance normalisation that follows it."""

    def __init__(self, block: ConvNormAct, dtype: torch.dtype, form: str, ranges: Ranges | None = None):
        """ranges: of what it reads, for products of bytes where the form has them."""
        super().__init__()
        conv = block.conv
        self.form = form
        self.stride, self.padding = conv.stride, conv.padding
        self.weights = conv.weight.numel()  # without those that packing adds
        weight = conv.weight.detach().to(dtype)
        self.quantised: nn.Parameter | None = None
        # The library's form stands in no table.
        known = FORMS.get(form)
        # Whether it normalises what it reads while loading it, and reads two tensors as one.
        self.fused = known is not None and known.fused
        if ranges is not None and known is not None and known.in_bytes:
            weight, self.quantised = _in_bytes(conv.weight.detach().float(), ranges)
        packed = {
            "cuda first": layers.pack_first_weight,
            "cuda walk": layers.pack_walk_weight,
            "cuda stride": layers.pack_stride_weight,
            "first": pack_first_weight,
            "march": pack_march_weight,
            "planes": pack_planes_weight,
            LIBRARY: lambda w: w.contiguous(memory_format=torch.channels_last_3d),
        }[form](weight)
        self.conv = nn.Parameter(packed, requires_grad=False)
        # The bias of a convolution is subtracted again by the normalisation.
        self.weight = nn.Parameter(block.weight.detach().float(), requires_grad=False)
        self.bias = nn.Parameter(block.bias.detach().float(), requires_grad=False)
        self.eps, self.slope = block.eps, block.negative_slope

    @property
    def told(self) -> str:
        """The form in words, with the type of the products."""
        form = "cuda walk for each source" if self.fused and len(self.conv) > 1 else self.form
        return f"{form}, {self.products} products"

    @property
    def products(self) -> str:
        return "int8" if self.quantised is not None else _name(self.conv.dtype)

    def forward(self, source: Raw, skip: Raw | tuple[None, None, None] = NOTHING) -> Raw:
        after = (self.weight, self.bias, self.eps)
        if self.fused:
            return torch.ops.unet3d.conv_cuda_walk(*source, *skip, self.slope, self.conv, self.quantised, *after)
        if self.form == "cuda stride":
            return torch.ops.unet3d.conv_cuda_stride(*source, self.slope, self.conv, *after)
        x = activated(source, self.slope)
        if self.form == "cuda first":
            return torch.ops.unet3d.conv_cuda_first(x, self.conv, *after)
        if self.form == "first":
            return torch.ops.unet3d.conv_first(x, self.conv, *after)
        if self.form == "march":
            return torch.ops.unet3d.conv_march(x, self.conv, *after)
        if self.form == "planes":
            return torch.ops.unet3d.conv_planes(x, self.conv, *after, CHUNK)
        y = torch.conv3d(x, self.conv, None, self.stride, self.padding)
        y = y.contiguous(memory_format=torch.channels_last_3d)
        return y, *torch.ops.unet3d.norm_scale(y, *after)


def _in_bytes(weight: torch.Tensor, ranges: Ranges) -> tuple[torch.Tensor, nn.Parameter]:
    """An int8 weight, and what `layers.walk` needs to come back from its sums."""
    made = quantise(weight, ranges)
    if ranges.zeros[-1]:
        raise ValueError(f"a range after LeakyReLU begins at byte 0, not {ranges.zeros[-1]}")
    numbers = [*(*ranges.steps, 1.0)[:2], *(*ranges.zeros, 0)[:2]]
    packed = torch.cat((made.factor, made.offset, made.factor.new_tensor(numbers)))
    return made.weight, nn.Parameter(packed, requires_grad=False)


def _name(dtype: torch.dtype) -> str:
    return next(name for name, precision in PRECISIONS.items() if precision.dtype() == dtype)


def activated(raw: Raw, slope: float) -> torch.Tensor:
    """A raw volume normalised and activated; one without scale as it is."""
    return raw[0] if raw[1] is None else torch.ops.unet3d.norm_apply(*raw, slope)


class Upsampling(nn.Module):
    """2x2x2 transposed convolution with stride 2 of a raw volume, for the block that reads it next."""

    def __init__(self, up: nn.ConvTranspose3d, dtype: torch.dtype, reader: Block):
        super().__init__()
        if up.kernel_size != (2, 2, 2) or up.stride != (2, 2, 2) or up.bias is not None:
            raise ValueError(f"only transposed convolutions 2x2x2 with stride 2, without bias are supported: {up}")
        weight = up.weight.detach().to(dtype)
        self.slope = reader.slope
        if dtype not in HALF:
            self.form, packed = LIBRARY, weight.contiguous(memory_format=torch.channels_last_3d)
        elif reader.fused and up.in_channels in layers.UPSAMPLED:
            self.form, packed = "cuda", layers.pack_upsample_weight(weight)
        else:
            self.form, packed = "triton", pack_upsample_weight(weight)
        self.weight = nn.Parameter(packed, requires_grad=False)

    @property
    def told(self) -> str:
        """The form in words, with the type of the products."""
        return f"{self.form}, {self.products} products"

    @property
    def products(self) -> str:
        return _name(self.weight.dtype)

    def forward(self, raw: Raw, skip: Raw) -> tuple[Raw, Raw | tuple[None, None, None]]:
        """What the reader reads: the upsampled volume and the skip connection, or both in one tensor."""
        if self.form == "cuda":
            return (torch.ops.unet3d.conv_cuda_upsample(*raw, self.slope, self.weight), None, None), skip
        if self.form == "triton":
            return (torch.ops.unet3d.conv_upsample(*raw, self.slope, self.weight, *skip), None, None), NOTHING
        x = torch.conv_transpose3d(activated(raw, self.slope), self.weight, None, (2, 2, 2))
        both = torch.cat((x, activated(skip, self.slope)), dim=1)
        return (both.contiguous(memory_format=torch.channels_last_3d), None, None), NOTHING


Stages = Sequence[Sequence[Block]]


class GpuUNet(nn.Module):
    """forward(x [N, 4, D, H, W] in the network's data type) -> logits [N, classes, D, H, W] in channels_last_3d."""

    def __init__(
        self,
        form: InferenceUNet,
        dtype: torch.dtype,
        choose: Chooser,
        ranges: Mapping[str, Ranges] | None = None,
        shape: Sequence[int] = STANDARD,
    ):
        super().__init__()
        places = geometries(form, shape, ranges)

        def made(block: ConvNormAct, name: str) -> Block:
            place = places[name]
            return Block(block, dtype, form_of(place, dtype, choose), ranges[name] if ranges and place.in_bytes else None)

        encoder, decoder, upsamplings = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, stage in enumerate(form.encoder):
            encoder.append(nn.ModuleList(made(block, f"encoder.{level}.{i}") for i, block in enumerate(stage)))
        for level, (up, stage) in enumerate(zip(form.upsamplings, form.decoder, strict=True)):
            blocks = [made(block, f"decoder.{level}.{i}") for i, block in enumerate(stage)]
            decoder.append(nn.ModuleList(blocks))
            upsamplings.append(Upsampling(up, dtype, blocks[0]))
        # nn.ModuleList knows no type of its modules.
        self.encoder, self.decoder = cast("Stages", encoder), cast("Stages", decoder)
        self.upsamplings = cast("Sequence[Upsampling]", upsamplings)
        # A layer activates what it reads, so that the slope that it has is that of the layers before it.
        slopes = {block.slope for stage in (*self.encoder, *self.decoder) for block in stage}
        if len(slopes) != 1:
            raise ValueError(f"only one slope of LeakyReLU for all layers is supported, not {sorted(slopes)}")
        [self.slope] = slopes
        self.half_precision = dtype in HALF
        head = form.head.weight.detach().to(dtype)
        head = head.flatten(1).t().contiguous() if self.half_precision else head
        self.head = nn.Parameter(head, requires_grad=False)
        last = self.decoder[-1][-1]
        self.head_by_cuda = self.half_precision and last.fused and layers.can_head(*form.head.weight.shape[1::-1])
        bias = form.head.bias
        self.head_bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)

    @classmethod
    def from_reference(
        cls,
        reference: nn.Module,
        dtype: torch.dtype,
        choose: Chooser,
        ranges: Mapping[str, Ranges] | None = None,
        shape: Sequence[int] = STANDARD,
    ) -> GpuUNet:
        """Build from nnU-Net's Generic_UNet with copies of its parameters in `dtype`; normalisation stays in float32.

        choose: the convolutions' forms, of `unet3d.network.gpu_forms`. ranges: of unet3d.network.quantization.calibrate, for
        int8 products where a form has them. shape: [N, 4, D, H, W] that forms are chosen for; it runs others too.
        Raises ValueError where the reference uses something that this form does not compute.
        """
        return cls(InferenceUNet.from_reference(reference), dtype, choose, ranges, shape).eval()

    def forms(self) -> dict[str, str]:
        """How each convolution is computed, and the type of its products."""
        return {name: module.told for name, module in self.named_modules() if isinstance(module, Block | Upsampling)}

    def executed(self, shape: Sequence[int]) -> list[Executed]:
        """What each layer multiplies for a batch of `shape` [N, 4, D, H, W], in order of execution."""
        samples, extent = shape[0], tuple(shape[2:])
        told: list[Executed] = []

        def add(name: str, module: Block | Upsampling, weights: int) -> None:
            told.append(Executed(name, module.products, 2 * weights * samples * prod(extent)))

        for level, stage in enumerate(self.encoder):
            for i, block in enumerate(stage):
                extent = tuple(-(-voxels // stride) for voxels, stride in zip(extent, block.stride, strict=True))
                add(f"encoder.{level}.{i}", block, block.weights)
        for level, (up, stage) in enumerate(zip(self.upsamplings, self.decoder, strict=True)):
            add(f"upsamplings.{level}", up, up.weight.numel())
            extent = tuple(2 * voxels for voxels in extent)
            for i, block in enumerate(stage):
                add(f"decoder.{level}.{i}", block, block.weights)
        told.append(Executed("head", _name(self.head.dtype), 2 * self.head.numel() * samples * prod(extent)))
        return told

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw: Raw = (x.contiguous(memory_format=torch.channels_last_3d), None, None)
        skips: list[Raw] = []
        for stage in self.encoder:
            for block in stage:
                raw = block(raw)
            skips.append(raw)
        skips.pop()
        for upsampling, stage in zip(self.upsamplings, self.decoder, strict=True):
            raw, skip = upsampling(raw, skips.pop())
            raw = stage[0](raw, skip)
            for block in stage[1:]:
                raw = block(raw)
        return self.logits(raw)

    def logits(self, raw: Raw) -> torch.Tensor:
        if self.head_by_cuda:
            return torch.ops.unet3d.conv_cuda_head(*raw, self.slope, self.head, self.head_bias)
        if self.half_precision:
            return torch.ops.unet3d.conv_head(*raw, self.slope, self.head, self.head_bias)
        x = torch.conv3d(activated(raw, self.slope), self.head, self.head_bias)
        return x.contiguous(memory_format=torch.channels_last_3d)
