"""The recipe of int8: ranges from calibration, bytes of weights, and the network that computes with them."""

import pytest
import torch
from torch import nn

from unet3d.network import quantization
from unet3d.network.cpu import CpuUNet
from unet3d.network.cpu_ops import build
from unet3d.network.inference import InferenceUNet


def volume(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network(narrow_reference):
    return InferenceUNet.from_reference(narrow_reference)


@pytest.fixture(scope="module")
def ranges(network):
    return quantization.calibrate(network, (volume(4, 32, 64, 32, seed=i) for i in range(2)))


def test_every_convolution_but_the_first_has_ranges(network, ranges):
    assert len(ranges) == 21 and "encoder.0.0" not in ranges
    assert ranges["encoder.0.1"].zeros == (0,) and ranges["encoder.0.1"].steps[0] > 0
    joined = ranges["decoder.0.0"]
    assert joined.zeros == (quantization.MIDDLE, 0) and sum(joined.channels) == network.decoder[0][0].conv.in_channels
    assert not any(block._forward_pre_hooks for block in network.modules())


def test_a_range_leaves_out_what_costs_more_than_it_gives():
    values = volume(1 << 20).abs()
    values[0] = 1000.0
    histogram = quantization._Histogram()
    histogram.add(values[: 1 << 19])
    histogram.add(values[1 << 19 :])
    histogram.add(torch.zeros(1 << 20))
    assert histogram.counts.sum() == 2 << 20
    top = histogram.step(quantization.LEVELS) * quantization.LEVELS
    assert 4 < top < 1000


@pytest.mark.parametrize("channels, zeros", [((8,), (0,)), ((4, 4), (128, 0))])
def test_bytes_of_a_weight(channels, zeros):
    weight, steps = volume(6, 8, 3, 3, 3), (0.02, 0.05)[: len(channels)]
    found = quantization.quantise(weight, quantization.Ranges(channels, steps, zeros))
    assert found.weight.dtype == torch.int8 and (found.weight.flatten(1).abs().amax(1) == 127).all()
    byte = torch.randint(0, 256, (1, 8, 4, 5, 6), generator=torch.Generator().manual_seed(2)).double()
    spread = [
        torch.cat([torch.full((n,), v, dtype=torch.float64) for n, v in zip(channels, values, strict=True)]).view(
            1, -1, 1, 1, 1
        )
        for values in (steps, zeros)
    ]
    sums = nn.functional.conv3d(byte, found.weight.double())
    y = sums * found.factor.double().view(1, -1, 1, 1, 1) + found.offset.double().view(1, -1, 1, 1, 1)
    expected = nn.functional.conv3d((byte - spread[1]) * spread[0], weight.double())
    assert (y - expected).norm() / expected.norm() < 1e-2


@pytest.mark.skipif(not build.available(), reason=build.status()[1])
@torch.inference_mode()
def test_the_network_in_int8(narrow_reference, ranges):
    found = CpuUNet.from_reference(narrow_reference, torch.bfloat16, ranges)
    forms = found.forms()
    assert sum("int8" in form for form in forms.values()) == len(ranges)
    x = volume(1, 4, 32, 64, 32, seed=7)
    exact = narrow_reference(x)
    assert (found(x).float() - exact).norm() / exact.norm() < 0.15
    with pytest.raises(ValueError, match="bf16"):
        CpuUNet.from_reference(narrow_reference, torch.float32, ranges)
