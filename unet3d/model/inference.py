"""nnU-Net's Generic_UNet in a form made for inference: the same forward, fewer and cheaper passes over memory.

What differs from nnU-Net's own form, and why the result does not:

- activations stay in channels_last_3d from the first layer to the last. InstanceNorm3d reshapes its input and so
  leaves that layout; for one sample it is the same computation as batch normalisation in training mode (mean and
  biased variance over all voxels of a channel), which keeps it. A larger batch is normalised sample by sample.
- LeakyReLU works in place, only the full-resolution head is computed, dropout (off in inference) is left out.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from unet3d.kernels import cpu


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
        x = instance_norm(self.conv(x), self.weight, self.bias, self.eps)
        return nn.functional.leaky_relu_(x, self.negative_slope)

    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution alone; PyTorch's choice of a kernel for small fp32 inputs loses channels_last_3d."""
        return self.conv(x).contiguous(memory_format=torch.channels_last_3d)

    def norm_parameters(self) -> tuple[torch.Tensor, torch.Tensor, float, float]:
        """Scale, shift, epsilon and negative slope, in the order in which the C++ operators want them."""
        return self.weight, self.bias, self.eps, self.negative_slope


class InferenceUNet(nn.Module):
    """The network of one nnU-Net Generic_UNet, forward(x [N, Cin, D, H, W]) -> logits [N, classes, D, H, W].

    D, H, W must be divisible by the product of the strides of their axis (32 for the BraTS network). Runs in fp32,
    bf16 and fp16, cast or under autocast, eager, traced or compiled, on any device.
    """

    def __init__(self, encoder: list[list[ConvNormAct]], upsamplings: list[nn.ConvTranspose3d],
                 decoder: list[list[ConvNormAct]], head: nn.Conv3d):
        super().__init__()
        self.encoder = nn.ModuleList(nn.Sequential(*stage) for stage in encoder)
        self.upsamplings = nn.ModuleList(upsamplings)
        self.decoder = nn.ModuleList(nn.Sequential(*stage) for stage in decoder)
        self.head = head
        self.native = False

    @classmethod
    def from_reference(cls, reference: nn.Module, native: bool = True) -> InferenceUNet:
        """Build from nnU-Net's Generic_UNet with copies of its parameters (dtype and device are kept).

        native: on a CPU, in fp32 and bf16, use the C++ operators of unet3d.kernels.cpu where they can be had
        (unet3d.kernels.cpu.status() says whether; a compiler runs for a minute the first time); otherwise, and on
        other devices, PyTorch's own operators. Raises ValueError where the reference uses something that this form does not compute.
        """
        if not (reference.convolutional_pooling and reference.convolutional_upsampling):
            raise ValueError("only strided convolutions down and transposed convolutions up are supported")
        network = cls(
            [_blocks(stage) for stage in reference.conv_blocks_context],
            [deepcopy(up) for up in reference.tu],
            [_blocks(stage) for stage in reference.conv_blocks_localization],
            deepcopy(reference.seg_outputs[-1]),
        )
        network.requires_grad_(False)
        network.native = native and reference.seg_outputs[-1].weight.device.type == "cpu" and cpu.available()
        return network.to(memory_format=torch.channels_last_3d).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if self.native and x.device.type == "cpu" and self._activation_dtype() in (torch.float32, torch.bfloat16):
            return self._forward_native(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for upsampling, stage in zip(self.upsamplings, self.decoder, strict=True):
            x = stage(torch.cat((upsampling(x), skips.pop()), dim=1))
        return self.head(x)

    def _activation_dtype(self) -> torch.dtype:
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.head.weight.dtype

    def _forward_native(self, x: torch.Tensor) -> torch.Tensor:
        """The same by the C++ operators: norm and activation in two passes, no concatenation.

        The last block of an encoder stage writes its result also to the second half of a buffer of twice the
        channels, the transposed convolution fills the first half; the head is computed while normalising.
        """
        operators = torch.ops.unet3d_cpu
        buffers = []
        for stage in self.encoder:
            for block in stage[:-1]:
                x = block.convolve(x)
                operators.norm_act_(x, *block.norm_parameters())
            block = stage[-1]
            x = block.convolve(x)
            if stage is self.encoder[-1]:
                operators.norm_act_(x, *block.norm_parameters())
            else:
                buffers.append(operators.norm_act_skip_(x, *block.norm_parameters()))
        for upsampling, stage in zip(self.upsamplings, self.decoder, strict=True):
            buffer = buffers.pop()
            operators.upsample_into_(x, upsampling.weight.to(x.dtype), buffer)
            x = buffer
            del buffer
            for block in stage[:-1]:
                x = block.convolve(x)
                operators.norm_act_(x, *block.norm_parameters())
            block = stage[-1]
            x = block.convolve(x)
            if stage is not self.decoder[-1]:
                operators.norm_act_(x, *block.norm_parameters())
        return operators.norm_act_head(x, *block.norm_parameters(), self.head.weight)


def _blocks(stage: nn.Module) -> list[ConvNormAct]:
    """The convolution blocks of a stage (StackedConvLayers, or two of them in sequence) in order of execution."""
    blocks = []
    for module in stage.modules():
        if not hasattr(module, "instnorm"):
            continue
        if not (type(module).__name__ == "ConvDropoutNormNonlin" and isinstance(module.conv, nn.Conv3d) and isinstance(module.instnorm, nn.InstanceNorm3d)
                and isinstance(module.lrelu, nn.LeakyReLU) and module.instnorm.affine
                and not module.instnorm.track_running_stats):
            raise ValueError(f"not Conv3d + affine InstanceNorm3d + LeakyReLU: {module}")
        blocks.append(ConvNormAct(deepcopy(module.conv), module.instnorm, module.lrelu.negative_slope))
    return blocks
