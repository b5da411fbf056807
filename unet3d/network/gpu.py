"""nnU-Net's Generic_UNet in a form made for GPUs: half-precision matrix units kept busy, few passes over memory.

The result is that of nnU-Net's own forward; what differs is where the time goes:

- everything is in channels_last_3d, the layout that matrix units want, from the first layer to the last,
- instance normalisation and LeakyReLU are two Triton passes that keep this layout: one for the moments, one to apply them.
  The head and the transposed convolutions apply them while loading; some convolutions compute the moments themselves,
- the transposed convolution and the skip connection are written side by side instead of being concatenated,
- the first convolution (4 channels) and those to few channels at full resolution have forms of their own, where they
  were measured to be faster than the libraries' (`FORMS`); all others are the library's (cuDNN, oneDNN).

In fp32 every product is the library's, in full fp32, since Triton's would be in TF32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import nn

from unet3d.config.precisions import PRECISIONS
from unet3d.network.inference import ConvNormAct, InferenceUNet
from unet3d.network.triton_ops import ops  # noqa: F401 - registers torch.ops.unet3d
from unet3d.network.triton_ops.conv import MODALITIES, pack_first_weight
from unet3d.network.triton_ops.gemm import pack_upsample_weight
from unet3d.network.triton_ops.march import pack_march_weight
from unet3d.network.triton_ops.planes import pack_planes_weight

HALF = tuple(precision.dtype() for precision in PRECISIONS.values() if precision.half)
# Planes that `conv_planes` works off at a time: fewer are slower, more need memory for three times the output.
CHUNK = 112

Raw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # a convolution's output with its normalisation's scale and shift


def sm_90(conv: nn.Conv3d) -> str:
    """Forms that were fastest on an H100 (benchmarks/gpu_layers.py): marching from 32 channels to 32, by planes where
    outputs are few for the inputs."""
    if conv.in_channels == conv.out_channels == 32:
        return "march"
    few = conv.out_channels <= 32 or (conv.out_channels <= 128 and conv.in_channels >= 2 * conv.out_channels)
    return "planes" if conv.in_channels >= 32 and few else "library"


def elsewhere(conv: nn.Conv3d) -> str:
    """On other architectures nothing was measured: the library computes what it can."""
    return "library"


FORMS = {"sm_90": sm_90}


class Block(nn.Module):
    """3x3x3 convolution and the scale and shift of the instance normalisation that follows it."""

    def __init__(self, block: ConvNormAct, dtype: torch.dtype, form: str):
        super().__init__()
        conv = block.conv
        self.form = form
        self.stride, self.padding = conv.stride, conv.padding
        weight = conv.weight.detach().to(dtype)
        packed = {
            "first": pack_first_weight,
            "march": pack_march_weight,
            "planes": pack_planes_weight,
            "library": lambda w: w.contiguous(memory_format=torch.channels_last_3d),
        }[form](weight)
        self.conv = nn.Parameter(packed, requires_grad=False)
        # The bias of a convolution is subtracted again by the normalisation.
        self.weight = nn.Parameter(block.weight.detach().float(), requires_grad=False)
        self.bias = nn.Parameter(block.bias.detach().float(), requires_grad=False)
        self.eps, self.slope = block.eps, block.negative_slope

    def forward(self, x: torch.Tensor) -> Raw:
        if self.form == "first":
            return torch.ops.unet3d.conv_first(x, self.conv, self.weight, self.bias, self.eps)
        if self.form == "march":
            return torch.ops.unet3d.conv_march(x, self.conv, self.weight, self.bias, self.eps)
        if self.form == "planes":
            return torch.ops.unet3d.conv_planes(x, self.conv, self.weight, self.bias, self.eps, CHUNK)
        y = torch.conv3d(x, self.conv, None, self.stride, self.padding)
        y = y.contiguous(memory_format=torch.channels_last_3d)
        return y, *torch.ops.unet3d.norm_scale(y, self.weight, self.bias, self.eps)

    def activate(self, raw: Raw) -> torch.Tensor:
        return torch.ops.unet3d.norm_apply(*raw, self.slope)


Stages = Sequence[Sequence[Block]]


def form_of(conv: nn.Conv3d, dtype: torch.dtype, choose: Callable[[nn.Conv3d], str]) -> str:
    """Which form computes this convolution: "first", "march", "planes" or "library"."""
    if dtype not in HALF or conv.stride != (1, 1, 1) or conv.kernel_size != (3, 3, 3) or conv.padding != (1, 1, 1):
        return "library"
    return "first" if conv.in_channels == MODALITIES else choose(conv)


class GpuUNet(nn.Module):
    """forward(x [N, 4, D, H, W] in the network's data type) -> logits [N, classes, D, H, W] in channels_last_3d."""

    def __init__(self, form: InferenceUNet, dtype: torch.dtype, choose: Callable[[nn.Conv3d], str]):
        super().__init__()

        def stage(blocks: Iterable[ConvNormAct]) -> nn.ModuleList:
            return nn.ModuleList(Block(block, dtype, form_of(block.conv, dtype, choose)) for block in blocks)

        # nn.ModuleList knows no type of its modules.
        self.encoder = cast("Stages", nn.ModuleList(stage(blocks) for blocks in form.encoder))
        self.decoder = cast("Stages", nn.ModuleList(stage(blocks) for blocks in form.decoder))
        for up in form.upsamplings:
            if up.kernel_size != (2, 2, 2) or up.stride != (2, 2, 2) or up.bias is not None:
                raise ValueError(f"only transposed convolutions 2x2x2 with stride 2, without bias are supported: {up}")
        self.half_precision = dtype in HALF
        prepare = pack_upsample_weight if self.half_precision else lambda w: w.contiguous(memory_format=torch.channels_last_3d)
        self.upsamplings = nn.ParameterList(
            nn.Parameter(prepare(up.weight.detach().to(dtype)), requires_grad=False) for up in form.upsamplings
        )
        head = form.head.weight.detach().to(dtype)
        head = head.flatten(1).t().contiguous() if self.half_precision else head
        self.head = nn.Parameter(head, requires_grad=False)
        bias = form.head.bias
        self.head_bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)

    @classmethod
    def from_reference(
        cls,
        reference: nn.Module,
        dtype: torch.dtype,
        architecture: str | None = None,
        choose: Callable[[nn.Conv3d], str] | None = None,
    ) -> GpuUNet:
        """Build from nnU-Net's Generic_UNet with copies of its parameters in `dtype`; normalisation stays in float32.

        architecture: as the device names it ("sm_90"); it decides the convolutions' forms unless `choose` does.
        Raises ValueError where the reference uses something that this form does not compute.
        """
        form = InferenceUNet.from_reference(reference)
        return cls(form, dtype, choose or FORMS.get(architecture or "", elsewhere)).eval()

    def forms(self) -> dict[str, int]:
        """How many of the 3x3x3 convolutions each form computes."""
        counts: dict[str, int] = {}
        for module in self.modules():
            if isinstance(module, Block):
                counts[module.form] = counts.get(module.form, 0) + 1
        return counts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        skips: list[Raw] = []
        for stage in self.encoder:
            for block in stage:
                raw = block(x)
                x = block.activate(raw) if block is not self.encoder[-1][-1] else x
            skips.append(raw)
        raw = skips.pop()
        for weight, stage in zip(self.upsamplings, self.decoder, strict=True):
            x = self.upsample(raw, weight, skips.pop(), stage[0].slope)
            for block in stage[:-1]:
                x = block.activate(block(x))
            raw = stage[-1](x)
        return self.logits(raw, stage[-1].slope)

    def upsample(self, raw: Raw, weight: torch.Tensor, skip: Raw, slope: float) -> torch.Tensor:
        """The transposed convolution of one raw volume and beside it, in channels, the skip connection."""
        if self.half_precision:
            return torch.ops.unet3d.conv_upsample(*raw, slope, weight, *skip)
        x = torch.ops.unet3d.norm_apply(*raw, slope)
        x = torch.conv_transpose3d(x, weight, None, (2, 2, 2))
        return torch.cat((x, torch.ops.unet3d.norm_apply(*skip, slope)), dim=1).contiguous(memory_format=torch.channels_last_3d)

    def logits(self, raw: Raw, slope: float) -> torch.Tensor:
        if self.half_precision:
            return torch.ops.unet3d.conv_head(*raw, slope, self.head, self.head_bias)
        x = torch.conv3d(torch.ops.unet3d.norm_apply(*raw, slope), self.head, self.head_bias)
        return x.contiguous(memory_format=torch.channels_last_3d)
