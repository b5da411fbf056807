"""Int8 for the 3x3x3 convolutions: one recipe for every device.

- Activations are unsigned bytes with one step a tensor. After LeakyReLU the range begins at zero: negative values, at most
  a hundredth of what was there, round to zero or are clamped there, and the step is half as wide as that of a symmetric
  range. What a transposed convolution gives has no LeakyReLU and both signs: its zero is byte 128.
- Where a convolution reads two tensors, each has its own step; the weights take it in.
- Weights are signed bytes, symmetric, one step an output channel. Sums are exact in int32.
- The upper end of a range is the one of least squared error over the values seen in the calibration volumes, by fp32.
- The network's first convolution, the upsamplings and the head stay in the type of the tensors: they are few products.

`calibrate` finds the ranges, `quantise` the bytes of a weight. A layer then computes
result = factor * sum(byte(weight) * byte(activation)) + offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from unet3d.network.inference import ConvNormAct, InferenceUNet

LEVELS, WEIGHT_LEVELS, MIDDLE = 255, 127, 128
BINS = 2048
# Values that are counted at a time: float32, in which PyTorch counts, has no whole numbers without gaps beyond.
COUNTED = 1 << 24


@dataclass(frozen=True)
class Ranges:
    """What a convolution reads: channels of each source, and a value is (byte - zero) * step."""

    channels: tuple[int, ...]
    steps: tuple[float, ...]
    zeros: tuple[int, ...]


@dataclass(frozen=True)
class Quantised:
    """A weight as int8 [Cout, Cin, ...], and fp32 [Cout] to come back from sums of products of bytes."""

    weight: torch.Tensor
    factor: torch.Tensor
    offset: torch.Tensor


class _Histogram:
    """How often the magnitudes of a tensor were how large; the bins grow with the values."""

    def __init__(self) -> None:
        self.top, self.counts = 0.0, torch.zeros(BINS, dtype=torch.float64)

    def add(self, values: torch.Tensor) -> None:
        top = float(values.max())
        while top > self.top:
            if self.top == 0:
                self.top = top
                break
            self.counts = torch.cat((self.counts.view(-1, 2).sum(1), self.counts.new_zeros(BINS // 2)))
            self.top *= 2
        if self.top > 0:
            for part in values.flatten().split(COUNTED):
                self.counts += torch.histc(part.float(), BINS, 0, self.top).double().cpu()

    def step(self, levels: int) -> float:
        """Of so many levels above zero, with the least squared error of rounding and clamping."""
        if self.top == 0:
            return 1.0
        width = self.top / BINS
        middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) * width
        ends = torch.arange(BINS // 16, BINS + 1, BINS // 128, dtype=torch.float64) * width
        beyond = (middles - ends.view(-1, 1)).clamp_min(0)
        rounding = torch.where(beyond > 0, beyond.square(), ((ends / levels).square() / 12).view(-1, 1))
        # Magnitudes in the first bin are zeros for the most part, which are exact.
        return float(ends[(rounding[:, 1:] @ self.counts[1:]).argmin()]) / levels


def calibrate(
    network: InferenceUNet, volumes: Iterable[torch.Tensor], step: Callable[[_Histogram, int], float] = _Histogram.step
) -> dict[str, Ranges]:
    """Ranges of each 3x3x3 convolution but the first, by name, from volumes [4, D, H, W] or [N, 4, D, H, W].

    network: in fp32, on the device it is to run on. step: how a range is chosen from what was seen.
    """
    blocks = _blocks(network)
    seen: dict[str, list[_Histogram]] = {name: [_Histogram() for _ in channels] for name, (_, channels) in blocks.items()}

    def observe(name: str, channels: tuple[int, ...]) -> Callable:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            parts = inputs[0].split(channels, 1)
            for i, (part, histogram) in enumerate(zip(parts, seen[name], strict=True)):
                histogram.add(part.abs() if _signed(channels, i) else part.clamp_min(0))

        return hook

    hooks = [block.register_forward_pre_hook(observe(name, channels)) for name, (block, channels) in blocks.items()]
    try:
        with torch.inference_mode():
            for volume in volumes:
                x = torch.as_tensor(volume).to(network.head.weight)
                network(x if x.dim() == 5 else x[None])
    finally:
        for hook in hooks:
            hook.remove()
    ranges_of = {}
    for name, (_, channels) in blocks.items():
        signed = [_signed(channels, i) for i in range(len(channels))]
        steps = tuple(
            step(histogram, WEIGHT_LEVELS if both else LEVELS) for histogram, both in zip(seen[name], signed, strict=True)
        )
        ranges_of[name] = Ranges(channels, steps, tuple(MIDDLE if both else 0 for both in signed))
    return ranges_of


def quantise(weight: torch.Tensor, ranges: Ranges) -> Quantised:
    """The bytes of a weight [Cout, Cin, ...] in fp32 for a convolution that reads these ranges."""
    steps = torch.cat([weight.new_full((n,), s) for n, s in zip(ranges.channels, ranges.steps, strict=True)])
    zeros = torch.cat([weight.new_full((n,), z) for n, z in zip(ranges.channels, ranges.zeros, strict=True)])
    shape = (1, -1) + (1,) * (weight.dim() - 2)
    scaled = weight.double() * steps.double().view(shape)
    factor = scaled.flatten(1).abs().amax(1).clamp_min(1e-30) / WEIGHT_LEVELS
    integers = (scaled / factor.view(-1, *(1,) * (weight.dim() - 1))).round()
    offset = -factor * (integers * zeros.view(shape)).flatten(1).sum(1)
    return Quantised(integers.to(torch.int8), factor.float(), offset.float())


def _signed(channels: tuple[int, ...], source: int) -> bool:
    """The first of two sources is what an upsampling gives."""
    return len(channels) == 2 and source == 0


def _blocks(network: InferenceUNet) -> dict[str, tuple[ConvNormAct, tuple[int, ...]]]:
    """The blocks to quantise by name, and the channels of each one's sources."""
    blocks: dict[str, tuple[ConvNormAct, tuple[int, ...]]] = {}
    for name, parts in (("encoder", network.encoder), ("decoder", network.decoder)):
        for level, stage in enumerate(parts):
            for i, block in enumerate(stage):
                inputs = block.conv.in_channels
                if name == "encoder" and level == 0 and i == 0:
                    continue
                up = network.upsamplings[level].out_channels if name == "decoder" and i == 0 else 0
                blocks[f"{name}.{level}.{i}"] = block, (up, inputs - up) if up else (inputs,)
    return blocks
