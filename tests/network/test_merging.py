"""Upsampling and the convolution after it as one transposed convolution, against the two layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unet3d.network.merging import merged_kernel


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
def test_one_transposed_convolution_equals_two_layers(stride, kernel):
    torch.manual_seed(3)
    up = nn.ConvTranspose3d(5, 6, stride, stride, bias=False).double()
    padding = [extent // 2 for extent in kernel]
    conv = nn.Conv3d(6, 7, kernel, padding=padding, bias=False).double()
    x = torch.randn(2, 5, 4, 3, 5, dtype=torch.float64)
    merged = merged_kernel(up.weight.detach(), conv.weight.detach())
    result = functional.conv_transpose3d(x, merged, stride=stride, padding=padding)
    expected = conv(up(x))
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected.detach(), atol=1e-12)
