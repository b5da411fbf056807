"""Types for what is read of nnU-Net's classes, which have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from torch import nn


class ConvBlock(Protocol):
    """nnU-Net's ConvDropoutNormNonlin."""

    conv: nn.Conv3d
    instnorm: nn.InstanceNorm3d
    lrelu: nn.LeakyReLU


class Stage(Protocol):
    """nnU-Net's StackedConvLayers, or two of them in sequence."""

    input_channels: int

    def modules(self) -> Iterator[nn.Module]: ...


class GenericUNet(Protocol):
    """nnU-Net's Generic_UNet."""

    convolutional_pooling: bool
    convolutional_upsampling: bool
    conv_blocks_context: Sequence[Stage]
    conv_blocks_localization: Sequence[Stage]
    tu: Sequence[nn.ConvTranspose3d]
    seg_outputs: Sequence[nn.Conv3d]


def generic_unet(network: nn.Module) -> GenericUNet:
    """The same object with its type."""
    return cast("GenericUNet", network)


def conv_blocks(modules: Iterator[nn.Module]) -> list[ConvBlock]:
    """The blocks among the modules of a stage or of the whole network, in order of execution."""
    return [cast("ConvBlock", module) for module in modules if hasattr(module, "instnorm")]
