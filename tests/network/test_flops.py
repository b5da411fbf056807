"""FLOP and extents of a convolution against PyTorch's own."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unet3d.network import flops


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (2, 2, 0), (1, 1, 0), (4, 2, 1)])
def test_a_convolution_is_counted_as_pytorch_counts_it(transposed, kernel, stride, padding):
    x = torch.zeros(2, 3, 8, 6, 10)
    weight = torch.zeros(*((3, 5) if transposed else (5, 3)), *[kernel] * 3)
    convolve = torch.conv_transpose3d if transposed else torch.conv3d
    with FlopCounterMode(display=False) as counter:
        y = convolve(x, weight, None, [stride] * 3, [padding] * 3)
    extent = flops.convolution_extent(x.shape[2:], weight.shape[2:], [stride] * 3, [padding] * 3, transposed)
    assert (2, 5, *extent) == tuple(y.shape)
    assert flops.convolution_flop(weight.shape, x.shape, y.shape, transposed) == counter.get_total_flops()


def test_counting_a_convolution_imports_nothing_heavy():
    code = "import sys, unet3d.network.flops; print([name for name in ('torch', 'numpy', 'nnunet') if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
