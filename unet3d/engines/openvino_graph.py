"""The network as an OpenVINO graph of our own, made for the CPU and GPU plugins, from nnU-Net's parameters.

Equal to the graph that OpenVINO's converter makes of nnU-Net's module, but for two exact rewritings in the decoder,
where `up` is the transposed convolution (no bias, no activation after it) and `skip` comes from the encoder:

- conv(concat(up(x), skip)) = conv_a(up(x)) + conv_b(skip), with the convolution's weights split by input channel.
  The concatenated tensor, the largest of the network, is never written or read; OpenVINO runs Concat of a
  channels-last layout in a reference kernel, and the sum is fused into the convolution that comes last.
- conv_a(up(x)) = one transposed convolution of a wider kernel: a 2x2x2 transposed convolution of stride 2 followed
  by a 3x3x3 convolution is a transposed convolution with a 4x4x4 kernel and stride 2. For each output voxel it
  multiplies 8 low-resolution voxels instead of 27 full-resolution ones and those before them: with C channels in the
  result 16 C^2 multiplications instead of 27 C^2 + 2 C^2.

Each normalisation is MVN, scale and shift and PReLU in the order that the plugin fuses into one kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino
    import torch


def merged_kernel(up: np.ndarray, conv: np.ndarray) -> np.ndarray:
    """Kernel of the transposed convolution equal to `conv` after the transposed convolution `up`.

    up: [Cin, C, s, s, s], whose stride is its extent; conv: [Cout, C, k, k, k] of stride 1. Computed in float64.
    Returns float32 [Cin, Cout, s + k - 1, ...]; stride s, and the padding to take off is the convolution's.
    """
    extent = tuple(s + k - 1 for s, k in zip(up.shape[2:], conv.shape[2:], strict=True))
    merged = np.zeros((up.shape[0], conv.shape[0], *extent), dtype=np.float64)
    up, conv = up.astype(np.float64), conv.astype(np.float64)
    # Output voxel o reads voxel u = o + tap - padding of the upsampled volume, which is x[i] * up[u - s * i]:
    # so o - s * i + padding, the position in the merged kernel, is (u - s * i) + 2 * padding - tap.
    for tap in np.ndindex(*conv.shape[2:]):
        begin = [k - 1 - t for k, t in zip(conv.shape[2:], tap, strict=True)]
        window = tuple(slice(b, b + s) for b, s in zip(begin, up.shape[2:], strict=True))
        weights = conv[(slice(None), slice(None), *tap)]
        merged[(slice(None), slice(None), *window)] += np.einsum("icdhw,oc->iodhw", up, weights)
    return merged.astype(np.float32)


def build(reference: torch.nn.Module) -> openvino.Model:
    """Float32 graph [N, 4, D, H, W] -> logits [N, classes, D, H, W] of a Generic_UNet, with every extent open.

    Raises ValueError where the network has something that this graph does not compute.
    """
    import openvino

    _check(reference)
    ops = openvino.opset13
    channels = reference.conv_blocks_context[0].input_channels
    volume = ops.parameter(openvino.PartialShape([-1, channels, -1, -1, -1]), np.float32, name="volume")
    x, skips = volume, []
    for level, stage in enumerate(reference.conv_blocks_context):
        for number, block in enumerate(_blocks(stage)):
            x = _block(ops, x, block, f"encoder.{level}.{number}")
        skips.append(x)
    skips.pop()
    for up, stage in zip(reference.tu, reference.conv_blocks_localization, strict=True):
        level = len(skips) - 1
        x = _join(ops, (x, skips.pop()), up, _blocks(stage)[0], f"decoder.{level}")
        for number, block in enumerate(_blocks(stage)[1:], start=1):
            x = _block(ops, x, block, f"decoder.{level}.{number}")
    head = reference.seg_outputs[-1]
    x = _convolution(ops, x, _array(head.weight), head, "head")
    if head.bias is not None:
        x = ops.add(x, ops.constant(_per_channel(head.bias)))
    return openvino.Model([ops.result(x, name="logits")], [volume], "unet3d")


def _block(ops: Any, x: Any, block: torch.nn.Module, name: str) -> Any:
    return _norm_act(ops, _convolution(ops, x, _array(block.conv.weight), block.conv, name), block, name)


def _join(ops: Any, inputs: tuple[Any, Any], up: torch.nn.Module, block: torch.nn.Module, name: str) -> Any:
    """The decoder's first block of a level: upsampling, concatenation, convolution, norm, activation."""
    x, skip = inputs
    weight = _array(block.conv.weight)
    split = up.out_channels
    padding = list(block.conv.padding)
    raised = ops.convolution_backprop_data(
        x, ops.constant(merged_kernel(_array(up.weight), weight[:, :split])), list(up.stride), pads_begin=padding,
        pads_end=padding, dilations=[1, 1, 1], name=f"{name}.up")
    kept = _convolution(ops, skip, np.ascontiguousarray(weight[:, split:]), block.conv, f"{name}.0")
    return _norm_act(ops, ops.add(kept, raised), block, f"{name}.0")


def _convolution(ops: Any, x: Any, weight: np.ndarray, conv: torch.nn.Module, name: str) -> Any:
    """Without bias: the normalisation that follows takes any constant of a channel off again."""
    padding = list(conv.padding)
    return ops.convolution(x, ops.constant(weight), list(conv.stride), padding, padding, list(conv.dilation), name=name)


def _norm_act(ops: Any, x: Any, block: torch.nn.Module, name: str) -> Any:
    norm = block.instnorm
    spatial = ops.constant(np.array([2, 3, 4], dtype=np.int64))
    x = ops.mvn(x, spatial, True, norm.eps, "INSIDE_SQRT", name=f"{name}.norm")
    x = ops.multiply(x, ops.constant(_per_channel(norm.weight)))
    x = ops.add(x, ops.constant(_per_channel(norm.bias)))
    return ops.prelu(x, ops.constant(np.array([block.lrelu.negative_slope], dtype=np.float32)))


def _blocks(stage: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in stage.modules() if hasattr(module, "instnorm")]


def _array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().float().cpu().numpy()


def _per_channel(parameter: torch.Tensor) -> np.ndarray:
    return _array(parameter).reshape(1, -1, 1, 1, 1)


def _check(reference: torch.nn.Module) -> None:
    if not (reference.convolutional_pooling and reference.convolutional_upsampling):
        raise ValueError("only strided convolutions down and transposed convolutions up are supported")
    for block in _blocks(reference):
        norm = type(block.instnorm).__name__, type(block.lrelu).__name__, type(block).__name__
        if norm != ("InstanceNorm3d", "LeakyReLU", "ConvDropoutNormNonlin") or not block.instnorm.affine:
            raise ValueError(f"not Conv3d + affine InstanceNorm3d + LeakyReLU: {block}")
    for up in reference.tu:
        if up.bias is not None or up.stride != up.kernel_size:
            raise ValueError(f"not a transposed convolution without bias whose stride is its kernel: {up}")
