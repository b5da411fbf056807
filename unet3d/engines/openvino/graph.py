"""The network as an OpenVINO graph of our own, made for the CPU and GPU plugins, from nnU-Net's parameters.

Equal to the graph that OpenVINO's converter makes of nnU-Net's module, but for two exact rewritings in the decoder,
where `up` is the transposed convolution (no bias, no activation after it) and `skip` comes from the encoder:

- conv(concat(up(x), skip)) = conv_a(up(x)) + conv_b(skip), with the convolution's weights split by input channel.
  The concatenated tensor, the largest of the network, is never written or read; OpenVINO runs Concat of a
  channels-last layout in a reference kernel, and the sum is fused into the convolution that comes last.
- conv_a(up(x)) = one transposed convolution of a wider kernel (unet3d.network.merging): a 2x2x2 transposed convolution of
  stride 2 followed by a 3x3x3 convolution is a transposed convolution with a 4x4x4 kernel and stride 2. For each output
  voxel it multiplies 8 low-resolution voxels instead of 27 full-resolution ones and those before them: with C channels
  in the result 16 C^2 multiplications instead of 27 C^2 + 2 C^2. `merge=False` leaves it out, where the plugin computes
  transposed convolutions slower than that gains.

Each normalisation is MVN, scale and shift and PReLU in the order that the plugin fuses into one kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino
    import torch

    from unet3d.network.nnunet_types import ConvBlock, GenericUNet


def build(reference: torch.nn.Module, merge: bool = True) -> openvino.Model:
    """Float32 graph [N, 4, D, H, W] -> logits [N, classes, D, H, W] of a Generic_UNet, with every extent open.

    merge: whether a level's upsampling and the convolution after it become one.

    Raises ValueError where the network has something that this graph does not compute.
    """
    import openvino

    from unet3d.network.nnunet_types import conv_blocks, generic_unet

    network = generic_unet(reference)
    _refuse_other_layers(network, reference)
    ops = openvino.opset13
    channels = network.conv_blocks_context[0].input_channels
    volume = ops.parameter(openvino.PartialShape([-1, channels, -1, -1, -1]), np.float32, name="volume")
    x, skips = volume, []
    for level, stage in enumerate(network.conv_blocks_context):
        for number, block in enumerate(conv_blocks(stage.modules())):
            x = _block(ops, x, block, f"encoder.{level}.{number}")
        skips.append(x)
    skips.pop()
    for up, stage in zip(network.tu, network.conv_blocks_localization, strict=True):
        level = len(skips) - 1
        blocks = conv_blocks(stage.modules())
        x = _join(ops, (x, skips.pop()), up, blocks[0], f"decoder.{level}", merge)
        for number, block in enumerate(blocks[1:], start=1):
            x = _block(ops, x, block, f"decoder.{level}.{number}")
    head = network.seg_outputs[-1]
    x = _convolution(ops, x, head.weight, head, "head")
    if head.bias is not None:
        x = ops.add(x, ops.constant(_per_channel(head.bias)))
    return openvino.Model([ops.result(x, name="logits")], [volume], "unet3d")


def _block(ops: Any, x: Any, block: ConvBlock, name: str) -> Any:
    return _norm_act(ops, _convolution(ops, x, block.conv.weight, block.conv, name), block, name)


def _join(ops: Any, inputs: tuple[Any, Any], up: torch.nn.ConvTranspose3d, block: ConvBlock, name: str, merge: bool) -> Any:
    """The decoder's first block of a level: upsampling, concatenation, convolution, norm, activation."""
    from unet3d.network.merging import merged_kernel

    x, skip = inputs
    of_x, of_skip = block.conv.weight[:, : up.out_channels], block.conv.weight[:, up.out_channels :]
    if merge:
        raised = _raise(ops, x, merged_kernel(up.weight, of_x), up, block.conv.padding, f"{name}.up")
    else:
        raised = _convolution(ops, _raise(ops, x, up.weight, up, up.padding, f"{name}.up"), of_x, block.conv, f"{name}.raised")
    kept = _convolution(ops, skip, of_skip, block.conv, f"{name}.0")
    return _norm_act(ops, ops.add(kept, raised), block, f"{name}.0")


def _raise(ops: Any, x: Any, weight: torch.Tensor, up: torch.nn.ConvTranspose3d, padding: Any, name: str) -> Any:
    return ops.convolution_backprop_data(
        x,
        ops.constant(_array(weight)),
        list(up.stride),
        pads_begin=list(padding),
        pads_end=list(padding),
        dilations=[1, 1, 1],
        name=name,
    )


def _convolution(ops: Any, x: Any, weight: torch.Tensor, conv: torch.nn.Conv3d, name: str) -> Any:
    """Without bias: the normalisation that follows takes any constant of a channel off again."""
    padding = list(conv.padding)
    return ops.convolution(x, ops.constant(_array(weight)), list(conv.stride), padding, padding, list(conv.dilation), name=name)


def _norm_act(ops: Any, x: Any, block: ConvBlock, name: str) -> Any:
    norm = block.instnorm
    spatial = ops.constant(np.array([2, 3, 4], dtype=np.int64))
    x = ops.mvn(x, spatial, True, norm.eps, "INSIDE_SQRT", name=f"{name}.norm")
    x = ops.multiply(x, ops.constant(_per_channel(norm.weight)))
    x = ops.add(x, ops.constant(_per_channel(norm.bias)))
    return ops.prelu(x, ops.constant(np.array([block.lrelu.negative_slope], dtype=np.float32)))


def _array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().float().contiguous().cpu().numpy()


def _per_channel(parameter: torch.Tensor) -> np.ndarray:
    return _array(parameter).reshape(1, -1, 1, 1, 1)


def _refuse_other_layers(network: GenericUNet, module: torch.nn.Module) -> None:
    if not (network.convolutional_pooling and network.convolutional_upsampling):
        raise ValueError("only strided convolutions down and transposed convolutions up are supported")
    from unet3d.network.nnunet_types import conv_blocks

    for block in conv_blocks(module.modules()):
        norm = type(block.instnorm).__name__, type(block.lrelu).__name__, type(block).__name__
        if norm != ("InstanceNorm3d", "LeakyReLU", "ConvDropoutNormNonlin") or not block.instnorm.affine:
            raise ValueError(f"not Conv3d + affine InstanceNorm3d + LeakyReLU: {block}")
    for up in network.tu:
        if up.bias is not None or up.stride != up.kernel_size:
            raise ValueError(f"not a transposed convolution without bias whose stride is its kernel: {up}")
