"""nnU-Net's Generic_UNet in a form made for inference: the same forward, fewer and cheaper passes over memory.

What differs from nnU-Net's own form, and why the result does not:

- activations stay in channels_last_3d from the first layer to the last. InstanceNorm3d reshapes its input and so
  leaves that layout; for one sample it is the same computation as batch normalisation in training mode (mean and
  biased variance over all voxels of a channel), which keeps it. A larger batch is normalised sample by sample.
- LeakyReLU works in place, only the full-resolution head is computed, dropout (off in inference) is left out.

The forms for CPUs and GPUs (unet3d.network.cpu, unet3d.network.gpu) are made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Protocol, cast, overload

import torch
from torch import nn

from unet3d.network import nnunet_types


@torch.jit.script_if_tracing
def instance_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Instance normalisation of x [N, C, D, H, W] with scale and shift [C]; keeps x's memory layout.

    Equal to torch.nn.functional.instance_norm for every N. x may be overwritten. Scripted under torch.jit.trace, so
    that a trace made with one batch size is right for others.

    PyTorch's CPU batch_norm sums channels-last voxels one after the other in fp32: at 4 million voxels its relative
    error is 6e-4 (var_mean: 5e-8). That drowns in the rounding of half precision but not in fp32.
    """
    if x.is_cpu and x.dtype == torch.float32:
        variance, mean = torch.var_mean(x, [2, 3, 4], correction=0, keepdim=True)
        scale = weight.view(1, -1, 1, 1, 1) * torch.rsqrt(variance + eps)
        return x.sub_(mean).mul_(scale).add_(bias.view(1, -1, 1, 1, 1))
    if x.size(0) == 1:
        return torch.batch_norm(x, weight, bias, None, None, True, 0.0, eps, True)
    for i in range(x.size(0)):
        sample = x.narrow(0, i, 1)
        sample.copy_(torch.batch_norm(sample, weight, bias, None, None, True, 0.0, eps, True))
    return x


class ConvNormAct(nn.Module):
    """3x3x3 convolution, instance normalisation, LeakyReLU: [N, Cin, D, H, W] -> [N, Cout, D/s, H/s, W/s]."""

    def __init__(self, conv: nn.Conv3d, norm: nn.InstanceNorm3d, negative_slope: float):
        super().__init__()
        self.conv = conv
        self.weight = nn.Parameter(norm.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().clone(), requires_grad=False)
        self.eps = norm.eps
        self.negative_slope = negative_slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = instance_norm(_channels_last(self.conv(x)), self.weight, self.bias, self.eps)
        return nn.functional.leaky_relu_(x, self.negative_slope)


class Stage(Protocol):
    """An nn.Sequential of blocks, with the blocks' type."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ConvNormAct]: ...
    @overload
    def __getitem__(self, index: int) -> ConvNormAct: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ConvNormAct]: ...


class InferenceUNet(nn.Module):
    """The network of one nnU-Net Generic_UNet, forward(x [N, Cin, D, H, W]) -> logits [N, classes, D, H, W].

    D, H, W must be divisible by the product of the strides of their axis (32 for the BraTS network). Runs in fp32,
    bf16 and fp16, cast or under autocast, eager, traced or compiled, on any device.
    """

    def __init__(
        self,
        encoder: list[list[ConvNormAct]],
        upsamplings: list[nn.ConvTranspose3d],
        decoder: list[list[ConvNormAct]],
        head: nn.Conv3d,
    ):
        super().__init__()
        # nn.ModuleList knows no type of its modules.
        self.encoder = cast("Sequence[Stage]", nn.ModuleList(nn.Sequential(*stage) for stage in encoder))
        self.upsamplings = cast("Sequence[nn.ConvTranspose3d]", nn.ModuleList(upsamplings))
        self.decoder = cast("Sequence[Stage]", nn.ModuleList(nn.Sequential(*stage) for stage in decoder))
        self.head = head

    @classmethod
    def from_reference(cls, reference: nn.Module) -> InferenceUNet:
        """Build from nnU-Net's Generic_UNet with copies of its parameters (dtype and device are kept).

        Raises ValueError where the reference uses something that this form does not compute.
        """
        source = nnunet_types.generic_unet(reference)
        if not (source.convolutional_pooling and source.convolutional_upsampling):
            raise ValueError("only strided convolutions down and transposed convolutions up are supported")
        network = cls(
            [_blocks(stage) for stage in source.conv_blocks_context],
            [deepcopy(up) for up in source.tu],
            [_blocks(stage) for stage in source.conv_blocks_localization],
            deepcopy(source.seg_outputs[-1]),
        )
        network.requires_grad_(False)
        return network.to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload] # PyTorch's types lack it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for upsampling, stage in zip(self.upsamplings, self.decoder, strict=True):
            x = stage(torch.cat((_channels_last(upsampling(x)), skips.pop()), dim=1))
        return _channels_last(self.head(x))


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """x itself, but where PyTorch's choice of a kernel for small fp32 inputs lost the layout."""
    return x.contiguous(memory_format=torch.channels_last_3d)


def _blocks(stage: nnunet_types.Stage) -> list[ConvNormAct]:
    """The convolution blocks of a stage (StackedConvLayers, or two of them in sequence) in order of execution."""
    blocks = []
    for block in nnunet_types.conv_blocks(stage.modules()):
        if not (
            type(block).__name__ == "ConvDropoutNormNonlin"
            and isinstance(block.conv, nn.Conv3d)
            and isinstance(block.instnorm, nn.InstanceNorm3d)
            and isinstance(block.lrelu, nn.LeakyReLU)
            and block.instnorm.affine
            and not block.instnorm.track_running_stats
        ):
            raise ValueError(f"not Conv3d + affine InstanceNorm3d + LeakyReLU: {block}")
        blocks.append(ConvNormAct(deepcopy(block.conv), block.instnorm, block.lrelu.negative_slope))
    return blocks
