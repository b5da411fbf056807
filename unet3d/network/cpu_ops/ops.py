"""Shapes of the fused layers' results, for torch.compile and for tensors without storage."""

from __future__ import annotations

import torch


def channels_last(x: torch.Tensor, channels: int, extents: list[int]) -> torch.Tensor:
    """[N, channels, *extents] in x's type, channels_last_3d, uninitialised."""
    return x.new_empty((x.shape[0], channels, *extents)).contiguous(memory_format=torch.channels_last_3d)


def register_fakes() -> None:
    """Must be called once, after the library was loaded."""

    @torch.library.register_fake("unet3d_fused::conv")
    def _(x, scale, shift, skip, skip_scale, skip_shift, slope, weight, stride, gamma, beta, eps, form, quantised=None):
        channels = gamma.shape[0]
        y = channels_last(x, channels, [(n - 1) // stride + 1 for n in x.shape[2:]])
        per_channel = x.new_empty((x.shape[0], channels), dtype=torch.float32)
        return y, per_channel, torch.empty_like(per_channel)

    @torch.library.register_fake("unet3d_fused::input")
    def _(x):
        return x.new_empty(x.shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)

    @torch.library.register_fake("unet3d_fused::upsample")
    def _(x, scale, shift, slope, weight, tiles=False):
        return channels_last(x, weight.numel() // (8 * x.shape[1]), [2 * n for n in x.shape[2:]])

    @torch.library.register_fake("unet3d_fused::head")
    def _(x, scale, shift, slope, weight, bias, tiles=False):
        return channels_last(x, weight.shape[0], list(x.shape[2:]))
