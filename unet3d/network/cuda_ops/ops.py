"""The CUDA C++ kernels as operators of PyTorch, torch.ops.unet3d.conv_cuda_*. A "raw" volume is a convolution's output not
yet normalised; it goes with the scale and shift [N, C] that its consumer applies, with LeakyReLU."""

from __future__ import annotations

from math import prod

from unet3d.network.cuda_ops import layers
from unet3d.network.custom_ops import each, fake_conv, fake_scales, head_operator, neighbours, operator
from unet3d.network.triton_ops import norm
from unet3d.network.triton_ops.layout import new_volume


@operator(
    "conv_cuda_first(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps: fake_conv(x, layers.OUT, x),
    lambda shapes: neighbours(shapes[0][1], layers.OUT, shapes[0]),
)
def conv_cuda_first(x, w, weight, bias, eps):
    """See `layers.first`: the raw output, its scale and shift."""
    y, part = layers.first(x, w)
    return y, *norm.fold(part, weight, bias, eps)


@operator(
    "conv_cuda_walk(Tensor x, Tensor? scale, Tensor? shift, Tensor? skip, Tensor? skip_scale, Tensor? skip_shift, "
    "float slope, Tensor w, Tensor? quantised, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, scale, shift, skip, skip_scale, skip_shift, slope, w, quantised, weight, bias, eps: fake_conv(
        x, weight.shape[0], x
    ),
    lambda shapes: neighbours(shapes[0][1] + (shapes[3][1] if shapes[3] else 0), shapes[9][0], shapes[0]),
)
def conv_cuda_walk(x, scale, shift, skip, skip_scale, skip_shift, slope, w, quantised, weight, bias, eps):
    """See `layers.walk`: the raw output, its scale and shift."""
    y, part = layers.walk(x, scale, shift, skip, skip_scale, skip_shift, slope, w, quantised)
    return y, *norm.fold(part, weight, bias, eps)


@operator(
    "conv_cuda_stride(Tensor x, Tensor? scale, Tensor? shift, float slope, Tensor w, Tensor weight, Tensor bias, float eps) "
    "-> (Tensor, Tensor, Tensor)",
    lambda x, scale, shift, slope, w, weight, bias, eps: (
        new_volume(x.shape[0], weight.shape[0], [(e + 1) // 2 for e in x.shape[2:]], x),
        *fake_scales(x, weight.shape[0]),
    ),
    lambda shapes: neighbours(shapes[0][1], shapes[5][0], shapes[0], stride=2),
)
def conv_cuda_stride(x, scale, shift, slope, w, weight, bias, eps):
    """See `layers.stride`: the raw output, its scale and shift."""
    y, part = layers.stride(x, scale, shift, slope, w)
    return y, *norm.fold(part, weight, bias, eps)


@head_operator("conv_cuda_head")
def conv_cuda_head(x, scale, shift, slope, w, bias):
    """See `layers.head`."""
    return layers.head(x, scale, shift, w, bias, slope)


@operator(
    "conv_cuda_upsample(Tensor x, Tensor scale, Tensor shift, float slope, Tensor w) -> Tensor",
    lambda x, scale, shift, slope, w: new_volume(x.shape[0], w.shape[0] * layers.OUT, [2 * e for e in x.shape[2:]], x),
    lambda shapes: each(prod(shapes[4]), shapes[0]),
)
def conv_cuda_upsample(x, scale, shift, slope, w):
    """See `layers.upsample`: a volume that is not normalised."""
    return layers.upsample(x, scale, shift, slope, w)
