"""The Triton kernels as operators of PyTorch, torch.ops.unet3d.*.

A "raw" volume is a convolution's output not yet normalised; it goes with the scale and shift [N, C] that its consumer
applies, with LeakyReLU.
"""

from __future__ import annotations

from math import prod

from unet3d.network.custom_ops import each, fake_conv, fake_scales, head_operator, neighbours, operator
from unet3d.network.triton_ops import conv, gemm, march, norm, planes
from unet3d.network.triton_ops.layout import new_volume


@operator(
    "conv_first(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps: fake_conv(x, w.shape[2], w),
    lambda shapes: neighbours(shapes[0][1], shapes[1][2], shapes[0]),
)
def conv_first(x, w, weight, bias, eps):
    """See `conv.conv_first`: the raw output, its scale and shift."""
    y, part = conv.conv_first(x, w)
    return y, *norm.fold(part, weight, bias, eps)


@operator(
    "conv_march(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps: fake_conv(x, w.shape[1] // 4, x),
    lambda shapes: neighbours(shapes[0][1], shapes[1][1] // 4, shapes[0]),
)
def conv_march(x, w, weight, bias, eps):
    """See `march.conv_march`: the raw output, its scale and shift."""
    y, part = march.conv_march(x, w)
    return y, *norm.fold(part, weight, bias, eps)


@operator(
    "conv_planes(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps, int chunk) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps, chunk: fake_conv(x, w.shape[0] // 3, x),
    lambda shapes: neighbours(shapes[0][1], shapes[1][0] // 3, shapes[0]),
)
def conv_planes(x, w, weight, bias, eps, chunk):
    """See `planes.conv_planes`: the raw output, its scale and shift."""
    y, part = planes.conv_planes(x, w, chunk)
    return y, *norm.fold(part, weight, bias, eps)


@operator(
    "norm_scale(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    lambda x, weight, bias, eps: fake_scales(x, x.shape[1]),
)
def norm_scale(x, weight, bias, eps):
    """Scale and shift of the instance normalisation of a raw volume."""
    return norm.fold(norm.moments(x), weight, bias, eps)


@operator(
    "norm_apply(Tensor x, Tensor scale, Tensor shift, float slope) -> Tensor",
    lambda x, scale, shift, slope: new_volume(x.shape[0], x.shape[1], x.shape[2:], x),
)
def norm_apply(x, scale, shift, slope):
    """leaky_relu(x * scale + shift)."""
    return norm.apply(x, scale, shift, slope, new_volume(x.shape[0], x.shape[1], x.shape[2:], x))


def _fake_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift):
    return new_volume(skip.shape[0], w.shape[1] // 8 + skip.shape[1], skip.shape[2:], skip)


@operator(
    "conv_upsample(Tensor x, Tensor scale, Tensor shift, float slope, Tensor w, Tensor skip, Tensor skip_scale, "
    "Tensor skip_shift) -> Tensor",
    _fake_upsample,
    lambda shapes: each(prod(shapes[4]), shapes[0]),
)
def conv_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift):
    """The transposed convolution of a raw x and beside it, in channels, the raw skip connection, normalised."""
    out = _fake_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift)
    channels = w.shape[1] // 8
    gemm.upsample(x, scale, shift, w, slope, out[:, :channels])
    norm.apply(skip, skip_scale, skip_shift, slope, out[:, channels:])
    return out


@head_operator("conv_head")
def conv_head(x, scale, shift, slope, w, bias):
    """See `gemm.head`."""
    return gemm.head(x, scale, shift, w, bias, slope)
