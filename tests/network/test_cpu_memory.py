"""What memory the CPU's fused layers keep from call to call, and where they compute on the way."""

import psutil
import pytest
import torch

from unet3d.devices import host
from unet3d.network.cpu import CpuUNet
from unet3d.network.cpu_ops import build, forms, ops, pack

pytestmark = pytest.mark.skipif(not build.available(), reason=build.status()[1])
MIB = 2**20


@pytest.fixture(autouse=True)
def nothing_kept():
    ops.release_kept()
    with torch.inference_mode():
        yield
    ops.release_kept()


def volume(channels, *extents):
    return torch.zeros(1, channels, *extents).contiguous(memory_format=torch.channels_last_3d)


def test_a_network_keeps_three_volumes_of_its_widest_layer(narrow_reference):
    """What was upsampled, the skip connection and the convolution's output; everything else lies where they are not yet."""
    network, extents = CpuUNet.from_reference(narrow_reference, torch.bfloat16), (128, 128, 96)
    widest = torch.empty(1, pack.BLOCK, *extents, dtype=torch.bfloat16).nbytes
    for _ in range(2):
        network(volume(4, *extents))
    assert 3 * widest <= ops.release_kept() < 3.1 * widest
    assert ops.release_kept() == 0


def test_a_buffer_in_which_a_tensor_lies_is_not_given_back():
    inputs = volume(32, 64, 64, 64)
    held = torch.ops.unet3d_fused.head(inputs, None, None, 0.01, torch.zeros(4, 32), torch.arange(4.0))
    assert ops.release_kept() == 0
    assert (held == torch.arange(4.0).view(1, 4, 1, 1, 1)).all()
    del held
    assert ops.release_kept() == 4 * MIB


def test_a_deep_layer_computes_in_memory_that_outer_layers_have_left():
    """Its transformed input and output take 50 MiB here, beside the few of its tensors."""
    inputs, outputs, tile = 512, 256, (2, 2, 2)
    x, weight = volume(inputs, 8, 16, 16), torch.zeros(outputs // pack.BLOCK, 64, inputs, pack.BLOCK)
    outer = torch.ops.unet3d_fused.upsample(volume(32, 48, 48, 48), None, None, 0.01, torch.zeros(1, 8, 32, 32))
    assert outer.nbytes == 108 * MIB
    del outer
    host.reset_peak_memory()
    before = host.peak_memory()
    if before > psutil.Process().memory_info().rss + 8 * MIB:
        pytest.skip("the kernel does not let the peak be reset")
    gamma = torch.ones(outputs)
    torch.ops.unet3d_fused.conv(
        x, None, None, None, None, None, 0.01, weight, 1, gamma, torch.zeros_like(gamma), 1e-5, forms.WINOGRAD[tile]
    )
    assert host.peak_memory() - before < 10 * MIB
