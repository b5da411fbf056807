"""nnU-Net 1.7.1's own network, built as nnU-Net's trainer builds it: what every other form is compared with."""

import contextlib
import importlib
import io
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from unet3d.errors import UserError, shown
from unet3d.network.plans import architecture


def import_nnunet(module: str) -> ModuleType:
    """Import a module of nnunet, which prints a banner and remarks about unset folders, with stdout kept clean."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


_generic_unet = import_nnunet("nnunet.network_architecture.generic_UNet")
_initialization = import_nnunet("nnunet.network_architecture.initialization")


def _identity(logits: Tensor) -> Tensor:
    return logits


class ReferenceUNet(_generic_unet.Generic_UNet):  # type: ignore[name-defined]
    """`Generic_UNet` that computes the full-resolution head only while deep supervision is off.

    nnU-Net computes the four auxiliary heads even then and drops their results. Parameters and their names are
    nnU-Net's; with `do_ds = True` the forward pass is too.
    """

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[N, 4, D, H, W], each extent divisible by 32 -> logits [N, classes, D, H, W] (a tuple of them if do_ds)."""
        if self.do_ds:
            return super().forward(x)
        skips = []
        for stage in self.conv_blocks_context[:-1]:
            x = stage(x)
            skips.append(x)
        x = self.conv_blocks_context[-1](x)
        for up, skip, stage in zip(self.tu, reversed(skips), self.conv_blocks_localization, strict=True):
            x = stage(torch.cat((up(x), skip), dim=1))
        return self.seg_outputs[-1](x)


def build(plans: dict, state_dict: dict[str, Tensor] | None = None, device: str = "cpu") -> ReferenceUNet:
    """The network that `plans` describe, in evaluation mode with deep supervision off.

    Source of every choice not in the plans: nnU-Net 1.7.1's nnUNetTrainerV2.initialize_network.
    Without `state_dict` the weights are nnU-Net's random initialisation, drawn from torch's global generator.
    Raises UserError when the plans describe no network or `state_dict` is that of another one.
    """
    shape = architecture(plans)
    with torch.device(device):
        network = ReferenceUNet(
            shape.input_channels,
            shape.base_features,
            shape.classes,
            len(shape.pool_kernels),
            num_conv_per_stage=shape.convs_per_stage,
            feat_map_mul_on_downscale=2,
            conv_op=nn.Conv3d,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            dropout_op=nn.Dropout3d,
            dropout_op_kwargs={"p": 0, "inplace": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"negative_slope": 1e-2, "inplace": True},
            deep_supervision=True,
            dropout_in_localization=False,
            final_nonlin=_identity,
            weightInitializer=_initialization.InitWeights_He(1e-2),
            pool_op_kernel_sizes=[list(kernel) for kernel in shape.pool_kernels],
            conv_kernel_sizes=[list(kernel) for kernel in shape.conv_kernels],
            upscale_logits=False,
            convolutional_pooling=True,
            convolutional_upsampling=True,
            max_num_features=shape.max_features,
        )
    network.do_ds = False
    if state_dict is not None:
        check(network, state_dict)
        network.load_state_dict(state_dict, strict=True, assign=device == "meta")
    return network.eval()


class Shaped(Protocol):
    """A tensor, or what a file says of one."""

    @property
    def shape(self) -> Sequence[int]: ...


def check(network: nn.Module, state_dict: Mapping[str, Shaped], name: str = "checkpoint") -> None:
    """Raise UserError, in one line, unless `state_dict` has exactly this network's parameters and shapes."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = [f"{key} is missing" for key in expected if key not in state_dict]
    wrong += [f"{shown(key)} is unknown" for key in state_dict if key not in expected]
    wrong += [
        f"{key} is {tuple(state_dict[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in state_dict and tuple(state_dict[key].shape) != shape
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{name}: not the weights of the network in its plans: {wrong[0]}{more}; "
            "plans and checkpoint must come from the same training."
        )
