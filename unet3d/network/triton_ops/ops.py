"""The Triton kernels as operators of PyTorch, torch.ops.unet3d.*, so that traces, torch.compile and the profiler know them.

Those that compute a convolution have names beginning with conv; the engine reads from them in which data type the
network ran. Nothing is changed in place. A "raw" volume is a convolution's output not yet normalised; it goes with the
scale and shift [N, C] that its consumer applies, with LeakyReLU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from unet3d.network.triton_ops import conv, gemm, march, norm, planes
from unet3d.network.triton_ops.layout import new_volume

_LIBRARY = torch.library.Library("unet3d", "FRAGMENT")


def _operator(schema: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function; `fake` makes outputs of the right shape, type and strides without computing."""
    name = schema.split("(", maxsplit=1)[0]

    def register(function: Callable) -> Callable:
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"unet3d::{name}", fake, lib=_LIBRARY)
        return function

    return register


def _fake_scales(x: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (x.new_empty((x.shape[0], channels), dtype=torch.float32), x.new_empty((x.shape[0], channels), dtype=torch.float32))


def _fake_conv(x, channels, like):
    return (new_volume(x.shape[0], channels, x.shape[2:], like), *_fake_scales(x, channels))


@_operator(
    "conv_first(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps: _fake_conv(x, w.shape[2], w),
)
def conv_first(x, w, weight, bias, eps):
    """See `conv.conv_first`: the raw output, its scale and shift."""
    y, part = conv.conv_first(x, w)
    return y, *norm.fold(part, weight, bias, eps)


@_operator(
    "conv_march(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps: _fake_conv(x, w.shape[1] // 4, x),
)
def conv_march(x, w, weight, bias, eps):
    """See `march.conv_march`: the raw output, its scale and shift."""
    y, part = march.conv_march(x, w)
    return y, *norm.fold(part, weight, bias, eps)


@_operator(
    "conv_planes(Tensor x, Tensor w, Tensor weight, Tensor bias, float eps, int chunk) -> (Tensor, Tensor, Tensor)",
    lambda x, w, weight, bias, eps, chunk: _fake_conv(x, w.shape[0] // 3, x),
)
def conv_planes(x, w, weight, bias, eps, chunk):
    """See `planes.conv_planes`: the raw output, its scale and shift."""
    y, part = planes.conv_planes(x, w, chunk)
    return y, *norm.fold(part, weight, bias, eps)


@_operator(
    "norm_scale(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    lambda x, weight, bias, eps: _fake_scales(x, x.shape[1]),
)
def norm_scale(x, weight, bias, eps):
    """Scale and shift of the instance normalisation of a raw volume."""
    return norm.fold(norm.moments(x), weight, bias, eps)


@_operator(
    "norm_apply(Tensor x, Tensor scale, Tensor shift, float slope) -> Tensor",
    lambda x, scale, shift, slope: new_volume(x.shape[0], x.shape[1], x.shape[2:], x),
)
def norm_apply(x, scale, shift, slope):
    """leaky_relu(x * scale + shift)."""
    return norm.apply(x, scale, shift, slope, new_volume(x.shape[0], x.shape[1], x.shape[2:], x))


def _fake_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift):
    return new_volume(skip.shape[0], w.shape[1] // 8 + skip.shape[1], skip.shape[2:], skip)


@_operator(
    "conv_upsample(Tensor x, Tensor scale, Tensor shift, float slope, Tensor w, Tensor skip, Tensor skip_scale, "
    "Tensor skip_shift) -> Tensor",
    _fake_upsample,
)
def conv_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift):
    """The transposed convolution of a raw x and beside it, in channels, the raw skip connection, normalised."""
    out = _fake_upsample(x, scale, shift, slope, w, skip, skip_scale, skip_shift)
    channels = w.shape[1] // 8
    gemm.upsample(x, scale, shift, w, slope, out[:, :channels])
    norm.apply(skip, skip_scale, skip_shift, slope, out[:, channels:])
    return out


@_operator(
    "conv_head(Tensor x, Tensor scale, Tensor shift, float slope, Tensor w, Tensor? bias) -> Tensor",
    lambda x, scale, shift, slope, w, bias: new_volume(x.shape[0], w.shape[1], x.shape[2:], w),
)
def conv_head(x, scale, shift, slope, w, bias):
    """See `gemm.head`: logits from the raw output of the last block."""
    return gemm.head(x, scale, shift, w, bias, slope)
