"""Upsampling and the convolution after it as one transposed convolution: the decoder's rewriting on the CPU."""

from __future__ import annotations

from itertools import product

import torch


def merged_kernel(up: torch.Tensor, conv: torch.Tensor) -> torch.Tensor:
    """Kernel of the transposed convolution equal to `conv` (stride 1) after the transposed convolution `up`.

    up [Cin, C, s, s, s], whose stride is its extent; conv [Cout, C, k, k, k]. Returns [Cin, Cout, s+k-1, ...] in conv's
    type, computed in float64, to be used with up's stride and conv's padding. With s = 2 and k = 3 each output voxel
    takes 8 products by Cin x Cout instead of 27 by C x Cout and one by Cin x C: 16 C^2 instead of 29 C^2 where Cin = 2C.
    """
    # Output voxel o is the sum over taps t of conv[t] u[o + t - p], and u[s i + j] is that over i of up[j] x[i]: x[i]
    # reaches o through the products with j - t = o - s i - p. All of them are one product of matrices.
    products = torch.tensordot(up.double(), conv.double(), dims=([1], [1]))
    steps, taps = up.shape[2:], conv.shape[2:]
    merged = products.new_zeros(up.shape[0], conv.shape[0], *(s + k - 1 for s, k in zip(steps, taps, strict=True)))
    for tap in product(*map(range, taps)):
        window = tuple(slice(k - 1 - t, k - 1 - t + s) for t, k, s in zip(tap, taps, steps, strict=True))
        merged[(..., *window)] += products[(..., *tap)].movedim(-1, 1)
    return merged.to(conv.dtype)
