"""nnU-Net's Generic_UNet in a form made for CPUs: its own convolutions with everything else done beside them.

The result is that of nnU-Net's own forward; what differs is where the time goes:

- 3x3x3 convolutions with stride 1 multiply up to eleven times less, by Winograd's method in three dimensions; on AMX they
  are direct, in bf16 or int8,
- a layer reads the raw output of the one before and normalises and activates it while loading, and gives the moments
  for the next normalisation with its own: the whole network is one pass of reading and one of writing a layer,
- a decoder's first convolution reads the upsampled volume and the skip connection from where they are,
- the head is computed while the last layer is normalised.

Tensors are channels_last_3d with channels padded to multiples of 32, in fp32 or bf16. Sums are in fp32,
those of int8 products exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from unet3d.network.cpu_ops import build, forms, pack
from unet3d.network.flops import Executed
from unet3d.network.inference import ConvNormAct, InferenceUNet
from unet3d.network.quantization import Ranges, quantise

# A convolution's output, and scale and shift of the normalisation after it.
Raw = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
NOTHING = (None, None, None)


def constant(x: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(x, requires_grad=False)


class Block(nn.Module):
    """3x3x3 convolution, with the normalisation of its sources before it and the moments for its own after it."""

    def __init__(
        self,
        block: ConvNormAct,
        sources: list[int],
        storage: torch.dtype,
        scale: int,
        tiles: bool,
        ranges: Ranges | None,
        first: bool = False,
    ):
        """sources: channels of each tensor that is read. scale: by which strides have divided the volume's extents.
        tiles: multiply on AMX tiles. ranges: for int8 products. first: whether it reads the network's input.
        """
        super().__init__()
        conv = block.conv
        if conv.kernel_size != (3, 3, 3) or conv.padding != (1, 1, 1) or conv.stride not in ((1, 1, 1), (2, 2, 2)):
            raise ValueError(f"only 3x3x3 convolutions with padding 1 and stride 1 or 2 are supported: {conv}")
        if not block.negative_slope <= 1:
            raise ValueError(f"only LeakyReLU with a slope up to 1 is supported: {block.negative_slope}")
        self.stride, self.eps, self.slope = conv.stride[0], block.eps, block.negative_slope
        weight = pack.pad(conv.weight.detach().float(), 0)
        products = forms.product_type(storage, build.vectors())
        self.quantised: nn.Parameter | None = None
        is_input = first and self.stride == 1 and conv.in_channels <= pack.INPUT
        tile = forms.tile(scale, storage) if self.stride == 1 else None
        if ranges is not None:
            packed, self.form = self._int8(conv.weight.detach().float(), ranges), forms.AMX[torch.int8]
        elif tiles:
            packed = pack.amx_input(weight) if is_input else pack.amx_bf16(pack.pad_inputs(weight, sources))
            self.form = forms.AMX[torch.bfloat16]
        elif is_input:
            packed, self.form = pack.direct_input(weight, products), forms.DIRECT[products]
        elif tile is None:
            packed = pack.direct(pack.pad_inputs(weight, sources), products, storage)
            self.form = forms.DIRECT[products]
        else:
            packed, self.form = pack.winograd(pack.pad_inputs(weight, sources), tile, storage), forms.WINOGRAD[tile]
        self.weight = constant(packed)
        # The bias of a convolution is subtracted again by the normalisation. Padded channels stay zero: gamma 0, beta 0.
        self.gamma = constant(pack.pad(block.weight.detach().float(), 0))
        self.beta = constant(pack.pad(block.bias.detach().float(), 0))

    def _int8(self, weight: torch.Tensor, ranges: Ranges) -> torch.Tensor:
        quantised = quantise(weight, ranges)
        steps, zeros = ((*values, 1.0)[:2] for values in (ranges.steps, ranges.zeros))
        self.quantised = constant(
            torch.cat(
                (
                    pack.pad(quantised.factor, 0),
                    pack.pad(quantised.offset, 0),
                    torch.tensor([*steps, *zeros], dtype=torch.float32),
                )
            )
        )
        return pack.amx_int8(pack.pad_inputs(pack.pad(quantised.weight, 0), list(ranges.channels)))

    def forward(self, x: Raw, skip: Raw | tuple[None, None, None] = NOTHING) -> Raw:
        output: Raw = torch.ops.unet3d_fused.conv(
            *x, *skip, self.slope, self.weight, self.stride, self.gamma, self.beta, self.eps, self.form, self.quantised
        )
        return output


class Upsampling(nn.Module):
    """2x2x2 transposed convolution with stride 2 of a volume that it normalises; no normalisation follows."""

    def __init__(self, up: nn.ConvTranspose3d, storage: torch.dtype, slope: float, tiles: bool):
        super().__init__()
        if up.kernel_size != (2, 2, 2) or up.stride != (2, 2, 2) or up.bias is not None:
            raise ValueError(f"only transposed convolutions 2x2x2 with stride 2, without bias are supported: {up}")
        self.tiles = tiles
        products = torch.bfloat16 if tiles else forms.product_type(storage, build.vectors())
        weight = pack.pad(pack.pad(up.weight.detach().float().transpose(0, 1), 0), 1)
        self.form, self.slope = (forms.AMX if tiles else forms.DIRECT)[products], slope
        self.weight = constant(pack.direct(weight, products, storage))

    def forward(self, x: Raw) -> Raw:
        return torch.ops.unet3d_fused.upsample(*x, self.slope, self.weight, self.tiles), None, None


class CpuUNet(nn.Module):
    """forward(x [N, Cin, D, H, W]) -> logits [N, classes, D, H, W] in the network's data type, channels_last_3d.

    D, H, W must be divisible by the product of the strides (32 for the BraTS network).
    """

    def __init__(
        self, form: InferenceUNet, dtype: torch.dtype, ranges: dict[str, Ranges] | None = None, tiles: bool | None = None
    ):
        super().__init__()
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"the CPU's fused layers store fp32 or bf16, not {str(dtype).removeprefix('torch.')}")
        if build.status()[0] != "native":
            raise RuntimeError(build.status()[1])
        if tiles is None:
            tiles = dtype == torch.bfloat16 and build.amx()
        if (tiles or ranges) and dtype != torch.bfloat16:
            raise ValueError("products on AMX tiles are for bf16 tensors")
        ranges = ranges or {}
        self.dtype = dtype
        self.channels = form.encoder[0][0].conv.in_channels
        scale, scales = 1, []
        encoder, upsamplings, decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, stage in enumerate(form.encoder):
            blocks = nn.ModuleList()
            for i, block in enumerate(stage):
                quantised, first = ranges.get(f"encoder.{level}.{i}"), level == 0 and i == 0
                blocks.append(Block(block, [block.conv.in_channels], dtype, scale, tiles, quantised, first))
                scale *= block.conv.stride[0]
            scales.append(scale)
            encoder.append(blocks)
        levels = zip(form.upsamplings, form.decoder, scales[-2::-1], strict=True)
        for level, (up, stage, scale) in enumerate(levels):
            upsamplings.append(Upsampling(up, dtype, form.encoder[-1][-1].negative_slope, tiles))
            sources = [up.out_channels, stage[0].conv.in_channels - up.out_channels]
            decoder.append(
                nn.ModuleList(
                    Block(
                        block,
                        sources if i == 0 else [block.conv.in_channels],
                        dtype,
                        scale,
                        tiles,
                        ranges.get(f"decoder.{level}.{i}"),
                    )
                    for i, block in enumerate(stage)
                )
            )
        # nn.ModuleList knows no type of its modules.
        self.encoder = cast("Sequence[Sequence[Block]]", encoder)
        self.upsamplings = cast("Sequence[Upsampling]", upsamplings)
        self.decoder = cast("Sequence[Sequence[Block]]", decoder)
        # A layer activates what it reads, so that the slope that it has is that of the layers before it.
        slopes = {block.slope for stage in (*self.encoder, *self.decoder) for block in stage}
        if len(slopes) != 1:
            raise ValueError(f"only one slope of LeakyReLU for all layers is supported, not {sorted(slopes)}")
        [self.slope] = slopes
        self.tiles = tiles and form.head.out_channels <= 16
        self.head_form = forms.AMX[torch.bfloat16] if self.tiles else forms.DIRECT[torch.float32]
        self.head = constant(pack.head(form.head.weight.detach(), dtype))
        self.head_bias = None if form.head.bias is None else constant(form.head.bias.detach().float())

    @classmethod
    def from_reference(
        cls, reference: nn.Module, dtype: torch.dtype, ranges: dict[str, Ranges] | None = None, tiles: bool | None = None
    ) -> CpuUNet:
        """Build from nnU-Net's Generic_UNet; tensors are stored in `dtype`, fp32 or bf16.

        ranges: of unet3d.network.quantization.calibrate, for int8 products where they say.
        tiles: multiply on AMX tiles, which are emulated where there are none; None: where the CPU has them.

        Raises ValueError where the reference uses something that this form does not compute, and RuntimeError where the
        operators cannot be had (build.status says so before).
        """
        return cls(InferenceUNet.from_reference(reference), dtype, ranges, tiles).eval()

    def forms(self) -> dict[str, str]:
        """Algorithm, tile and type of products of each layer, and the vectors that compute it."""
        vectors = build.vectors()
        layers = {name: m.form for name, m in self.named_modules() if isinstance(m, Block | Upsampling)}
        told = {name: form if "AMX" in form else f"{form}, {vectors}" for name, form in layers.items()}
        return {**told, "head": self.head_form if self.tiles else f"{self.head_form}, {vectors}"}

    def executed(self, shape: Sequence[int]) -> list[Executed]:
        """What each layer multiplies for a batch of `shape` [N, Cin, D, H, W], in order of execution."""
        samples, extent = shape[0], tuple(shape[2:])
        told: list[Executed] = []

        def add(name: str, form: str, weight: torch.Tensor, extent: tuple[int, ...]) -> None:
            flop = forms.executed_flop(form, weight.numel(), samples, extent)
            told.append(Executed(name, forms.products(form), flop))

        for level, stage in enumerate(self.encoder):
            for i, block in enumerate(stage):
                extent = tuple((n - 1) // block.stride + 1 for n in extent)
                add(f"encoder.{level}.{i}", block.form, block.weight, extent)
        for level, (upsampling, stage) in enumerate(zip(self.upsamplings, self.decoder, strict=True)):
            add(f"upsamplings.{level}", upsampling.form, upsampling.weight, extent)
            extent = tuple(2 * n for n in extent)
            for i, block in enumerate(stage):
                add(f"decoder.{level}.{i}", block.form, block.weight, extent)
        add("head", self.head_form, self.head, extent)
        return told

    def _stored(self, x: torch.Tensor) -> torch.Tensor:
        """The input in the layers' type and layout."""
        x = x.to(self.dtype)
        if self.channels > pack.INPUT:
            x = nn.functional.pad(x, (0, 0) * 3 + (0, pack.padded(self.channels) - self.channels))
        return x.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw: Raw = (self._stored(x), None, None)
        skips: list[Raw] = []
        for stage in self.encoder:
            for block in stage:
                raw = block(raw)
            skips.append(raw)
        skips.pop()
        for upsampling, stage in zip(self.upsamplings, self.decoder, strict=True):
            # Held by no other name: what was upsampled is free for the convolution's output.
            raw = upsampling(raw)
            raw = stage[0](raw, skips.pop())
            for block in stage[1:]:
                raw = block(raw)
        return torch.ops.unet3d_fused.head(*raw, self.slope, self.head, self.head_bias, self.tiles)


def planned(plans: dict[str, Any], dtype: torch.dtype, shape: Sequence[int]) -> list[Executed]:
    """What nnU-Net's network of these plans would multiply here for a batch of `shape` [N, Cin, D, H, W]; see `CpuUNet`."""
    from unet3d.network import reference  # nnU-Net, which nothing else here needs

    with torch.device("meta"):
        return CpuUNet.from_reference(reference.build(plans, device="meta"), dtype).executed(shape)
