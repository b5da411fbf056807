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

Each normalisation has its moments from sums in two stages. OpenVINO's own operation, MVN, adds up the voxels of a channel one
after the other in float32. In a constant background, which is most of a volume, each of millions of additions then rounds the
same way: at full size the mean was off by up to 16% of the deviation. It also joins reductions that follow on each other to
one of one stage. So blocks of voxels, or rows of them, are averaged before all of these averages are.
"""

from __future__ import annotations

from math import gcd, prod
from typing import TYPE_CHECKING, Any

import numpy as np

Extents = tuple[int, ...]  # z, y, x
# Voxels on each axis of a block whose mean is taken first, where the extents can be divided by it: of 8 million voxels 16,000
# means are left.
BLOCK = 8

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
    # By what the extents of a level can be divided, as the volume's can by the product of all strides.
    strides = [up.stride for up in network.tu]
    divisors = [
        tuple(prod(stride[axis] for stride in strides[: len(strides) - level]) for axis in range(3))
        for level in range(len(strides) + 1)
    ]
    for level, stage in enumerate(network.conv_blocks_context):
        for number, block in enumerate(conv_blocks(stage.modules())):
            x = _block(ops, x, block, divisors[level], f"encoder.{level}.{number}")
        skips.append(x)
    skips.pop()
    for up, stage in zip(network.tu, network.conv_blocks_localization, strict=True):
        level = len(skips) - 1
        blocks = conv_blocks(stage.modules())
        x = _join(ops, (x, skips.pop()), up, blocks[0], f"decoder.{level}", merge)
        x = _norm_act(ops, x, blocks[0], divisors[level], f"decoder.{level}.0")
        for number, block in enumerate(blocks[1:], start=1):
            x = _block(ops, x, block, divisors[level], f"decoder.{level}.{number}")
    head = network.seg_outputs[-1]
    x = _convolution(ops, x, head.weight, head, "head")
    if head.bias is not None:
        x = ops.add(x, ops.constant(_per_channel(head.bias)))
    return openvino.Model([ops.result(x, name="logits")], [volume], "unet3d")


def _block(ops: Any, x: Any, block: ConvBlock, divisors: Extents, name: str) -> Any:
    return _norm_act(ops, _convolution(ops, x, block.conv.weight, block.conv, name), block, divisors, name)


def _join(ops: Any, inputs: tuple[Any, Any], up: torch.nn.ConvTranspose3d, block: ConvBlock, name: str, merge: bool) -> Any:
    """The decoder's first layers of a level: upsampling, concatenation, convolution."""
    from unet3d.network.merging import merged_kernel

    x, skip = inputs
    of_x, of_skip = block.conv.weight[:, : up.out_channels], block.conv.weight[:, up.out_channels :]
    if merge:
        raised = _raise(ops, x, merged_kernel(up.weight, of_x), up, block.conv.padding, f"{name}.up")
    else:
        raised = _convolution(ops, _raise(ops, x, up.weight, up, up.padding, f"{name}.up"), of_x, block.conv, f"{name}.raised")
    kept = _convolution(ops, skip, of_skip, block.conv, f"{name}.0")
    return ops.add(kept, raised)


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


def _norm_act(ops: Any, x: Any, block: ConvBlock, divisors: Extents, name: str) -> Any:
    """divisors: of the extents of x."""
    norm = block.instnorm
    centred = ops.subtract(x, _mean(ops, x, divisors), name=f"{name}.norm")
    # Squares of rows are summed in registers; no tensor of squares is written.
    length = ops.convert(ops.gather(ops.shape_of(x), _axes(ops, 4), _axes(ops, 0)), np.float32)
    rows = ops.reduce_l2(centred, _axes(ops, 4), True)
    variance = _mean(ops, ops.divide(ops.multiply(rows, rows), length), (*divisors[:2], 1))
    deviation = ops.sqrt(ops.add(variance, ops.constant(np.float32(norm.eps))))
    x = ops.multiply(centred, ops.divide(ops.constant(_per_channel(norm.weight)), deviation))
    x = ops.add(x, ops.constant(_per_channel(norm.bias)))
    return ops.prelu(x, ops.constant(np.array([block.lrelu.negative_slope], dtype=np.float32)))


def _mean(ops: Any, x: Any, divisors: Extents) -> Any:
    """Mean of each channel [N, C, 1, 1, 1], by the means of blocks; divisors: of the extents of x."""
    block = [gcd(divisor, BLOCK) for divisor in divisors]
    if max(block) > 1:
        x = ops.avg_pool(x, block, [0] * 3, [0] * 3, block, True)
    return ops.reduce_mean(x, _axes(ops, 2, 3, 4), True)


def _axes(ops: Any, *axes: int) -> Any:
    return ops.constant(np.array(axes, dtype=np.int64))


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
