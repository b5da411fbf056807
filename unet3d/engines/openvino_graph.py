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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino
    import torch


@dataclass(frozen=True)
class Form:
    """Which rewritings are made."""

    split_concat: bool = True
    merge_upsampling: bool = True


def merged_kernel(up: np.ndarray, conv: np.ndarray, stride: tuple[int, int, int]) -> np.ndarray:
    """Kernel of the transposed convolution equal to `conv` after the transposed convolution `up`.

    up: [Cin, C, s, s, s] with stride s; conv: [Cout, C, k, k, k] with stride 1.
    Returns float32 [Cin, Cout, s + k - 1, ...], computed in float64. The padding to take off is the convolution's.
    """
    extent = tuple(s + k - 1 for s, k in zip(up.shape[2:], conv.shape[2:], strict=True))
    merged = np.zeros((up.shape[0], conv.shape[0], *extent), dtype=np.float64)
    up, conv = up.astype(np.float64), conv.astype(np.float64)
    # Output voxel o of the convolution reads u = o + t - padding; voxel u of `up` is x[i] * up[u - stride * i].
    for tap in np.ndindex(*conv.shape[2:]):
        start = tuple(k - 1 - t for k, t in zip(conv.shape[2:], tap, strict=True))
        window = tuple(slice(b, b + s) for b, s in zip(start, up.shape[2:], strict=True))
        merged[(slice(None), slice(None), *window)] += np.einsum("icdhw,oc->iodhw", up, conv[(slice(None), slice(None), *tap)])
    return merged.astype(np.float32)
