"""The convolutions on AMX tiles against fp64, and int8 against exact integers; the tiles are emulated where there are none."""

from pathlib import Path

import pytest
import torch
from torch import nn

from unet3d.network import quantization
from unet3d.network.cpu_ops import build, forms, pack

pytestmark = pytest.mark.skipif(not build.available(), reason=build.status()[1])

BF16, INT8 = forms.AMX[torch.bfloat16], forms.AMX[torch.int8]
# Odd extents, rows longer and shorter than a tile, rows that fill tiles, two samples, many planes.
EXTENTS = [(1, 7, 9, 13), (2, 5, 11, 34), (1, 3, 3, 32), (1, 6, 4, 47), (1, 2, 2, 5), (1, 12, 20, 80), (1, 41, 3, 17)]
# Channels of one or two sources: half a row of a tile of bytes, a whole one, an odd number of halves.
CHANNELS = [(32,), (64,), (160,), (32, 32), (64, 96)]
OUTPUTS = 64


@pytest.fixture(autouse=True)
def threads(request):
    """1 to 4 threads, one number for each of the extents."""
    before = torch.get_num_threads()
    shape = getattr(request.node, "callspec", None) and request.node.callspec.params.get("shape")
    torch.set_num_threads(EXTENTS.index(shape) % 4 + 1 if shape else 2)
    yield
    torch.set_num_threads(before)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def tensor(*shape, seed=1):
    x = torch.randn(shape, generator=generator(seed)).bfloat16()
    return x.contiguous(memory_format=torch.channels_last_3d)


def per_channel(values):
    return values.double()[:, :, None, None, None]


def sources(channels, shape, make):
    """Raw tensors by `make`, scales and shifts; the first of two has none, like what an upsampling gives."""
    found = []
    for i, count in enumerate(channels):
        x = make(i, shape[0], count, *shape[1:])
        scale = torch.rand(shape[0], count, generator=generator(i + 10)) + 0.5
        shift = torch.randn(shape[0], count, generator=generator(i + 20)) * 0.3
        found.append((x, None, None) if len(channels) == 2 and i == 0 else (x, scale, shift))
    return found


def activated(x, scale, shift, slope=0.01):
    if scale is None:
        return x.double()
    return nn.functional.leaky_relu(x.double() * per_channel(scale) + per_channel(shift), slope)


def convolve(raw, weight, stride, form, quantised=None, gamma=None, beta=None):
    """The operator, in memory that held NaN before."""
    outputs = weight.shape[0] * 32
    gamma = torch.ones(outputs) if gamma is None else gamma
    beta = torch.zeros(outputs) if beta is None else beta
    arguments = (*raw[0], *(raw[1] if len(raw) == 2 else (None,) * 3), 0.01, weight, stride, gamma, beta, 1e-5, form, quantised)
    torch.ops.unet3d_fused.conv(*arguments)[0].fill_(float("nan"))
    return torch.ops.unet3d_fused.conv(*arguments)


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


def check_moments(scale, shift, expected):
    """Scale and shift of a normalisation with gamma 1 and beta 0."""
    mean, variance = expected.mean((2, 3, 4)), expected.var((2, 3, 4), correction=0)
    factor = (variance + 1e-5).rsqrt()
    assert torch.allclose(scale.double(), factor, rtol=1e-4)
    assert torch.allclose(shift.double(), -mean * factor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("shape", EXTENTS)
def test_bf16(shape, channels, stride):
    raw = sources(channels, shape, lambda i, *shape: tensor(*shape, seed=i))
    weight = torch.randn(OUTPUTS, sum(channels), 3, 3, 3, generator=generator(3)) * 0.05
    found, scale, shift = convolve(raw, pack.amx_bf16(weight), stride, BF16)
    exact = torch.cat([activated(*source) for source in raw], 1).bfloat16().double()
    expected = nn.functional.conv3d(exact, weight.bfloat16().double(), padding=1, stride=stride)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert error(found, expected) < 2.5e-3
    check_moments(scale, shift, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", EXTENTS)
def test_of_the_input(shape, channels):
    x = tensor(shape[0], channels, *shape[1:])
    weight = torch.randn(32, channels, 3, 3, 3, generator=generator(3)) * 0.1
    found, scale, shift = convolve([(x, None, None)], pack.amx_input(weight), 1, BF16)
    expected = nn.functional.conv3d(x.double(), weight.bfloat16().double(), padding=1)
    assert error(found, expected) < 2.5e-3
    check_moments(scale, shift, expected)


@pytest.mark.parametrize("outputs", [32, 64, 96])
@pytest.mark.parametrize("shape", EXTENTS)
def test_upsampling(shape, outputs):
    check_upsampling(shape, outputs)


def test_upsampling_past_the_caches():
    """Outputs of more than 8 MiB: with AVX512-BF16 they are written with other instructions."""
    check_upsampling((1, 18, 18, 33), 64)


def check_upsampling(shape, outputs):
    raw = sources((96,), shape, lambda i, *shape: tensor(*shape))[0]
    weight = torch.randn(96, outputs, 2, 2, 2, generator=generator(3)) * 0.1
    packed = pack.direct(weight.transpose(0, 1), torch.bfloat16, torch.bfloat16)
    torch.ops.unet3d_fused.upsample(*raw, 0.01, packed, True).fill_(float("nan"))
    found = torch.ops.unet3d_fused.upsample(*raw, 0.01, packed, True)
    expected = nn.functional.conv_transpose3d(activated(*raw).bfloat16().double(), weight.bfloat16().double(), stride=2)
    assert error(found, expected) < 2.5e-3


# Of one thread an item has all panels, of several threads an odd number of them or one. With 384 channels the weights of two
# panels do not fit the cache together.
@pytest.mark.parametrize(
    "extents, inputs, outputs",
    [((1, 1, 1, 20), 64, 160), ((1, 1, 1, 20), 64, 96), ((1, 2, 3, 5), 64, 160), ((1, 4, 4, 4), 384, 96)],
)
def test_panels_that_threads_share_have_the_same_bits(extents, inputs, outputs):
    raw = sources((inputs,), extents, lambda i, *shape: tensor(*shape))
    weight = torch.randn(outputs, inputs, 3, 3, 3, generator=generator(3)) * 0.05
    exact = activated(*raw[0]).bfloat16().double()
    expected = nn.functional.conv3d(exact, weight.bfloat16().double(), padding=1)
    found = []
    for count in (1, 3, 8):
        torch.set_num_threads(count)
        found.append(convolve(raw, pack.amx_bf16(weight), 1, BF16))
        assert all(torch.equal(one, other) for one, other in zip(found[0], found[-1], strict=True))
    assert error(found[0][0], expected) < 2.5e-3
    check_moments(*found[0][1:], expected)


def test_taps_of_an_upsampling_that_threads_share():
    """Three threads have three, three and two of the eight taps."""
    torch.set_num_threads(3)
    check_upsampling((1, 1, 1, 5), 32)


@pytest.mark.parametrize("classes, channels, bias", [(4, 32, True), (3, 96, False)])
@pytest.mark.parametrize("shape", EXTENTS)
def test_head(shape, classes, channels, bias):
    raw = sources((channels,), shape, lambda i, *shape: tensor(*shape))[0]
    weight = torch.randn(classes, channels, 1, 1, 1, generator=generator(3))
    biases = torch.randn(classes, generator=generator(4)) if bias else None
    arguments = (*raw, 0.01, pack.head(weight, torch.bfloat16), biases, True)
    torch.ops.unet3d_fused.head(*arguments).fill_(float("nan"))
    found = torch.ops.unet3d_fused.head(*arguments)
    exact = activated(*raw).bfloat16().double()
    expected = nn.functional.conv3d(exact, weight.bfloat16().double(), None if biases is None else biases.double())
    assert error(found, expected) < 2.5e-3


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("shape, outputs", [*((shape, 64) for shape in EXTENTS), (EXTENTS[0], 96)])
def test_int8_is_exact(shape, outputs, channels, stride):
    """All numbers are multiples of powers of two, so that nothing but the tensors' bf16 is rounded."""

    def integers(i, *shape):
        x = torch.randint(-40, 128, shape, generator=generator(i)).bfloat16() / 8
        return x.contiguous(memory_format=torch.channels_last_3d)

    raw = [
        (x, *(None if t is None else torch.full_like(t, value) for t, value in ((scale, 2.0), (shift, 0.25))))
        for x, scale, shift in sources(channels, shape, integers)
    ]
    steps, zeros = ((0.125, 0.125), (128, 0)) if len(channels) == 2 else ((0.125,), (0,))
    weight = torch.randint(-127, 128, (outputs, sum(channels), 3, 3, 3), generator=generator(3), dtype=torch.int8)
    factor = torch.full((outputs,), 2.0**-10)
    zero = torch.cat([torch.full((n,), z) for n, z in zip(channels, zeros, strict=True)])
    offset = -factor * (weight.long().sum((2, 3, 4)) * zero).sum(1)
    quantised = torch.cat((factor, offset, torch.tensor([*steps, 1.0][:2] + [*zeros, 0.0][:2])))
    found, scale, shift = convolve(raw, pack.amx_int8(weight), stride, INT8, quantised)
    activations = [x.double() if scale is None else x.double() * 2 + 0.25 for x, scale, _ in raw]
    byte = torch.cat([(a / step + z).clamp(0, 255) - z for a, step, z in zip(activations, steps, zeros, strict=True)], 1)
    assert torch.equal(byte, byte.round()) and byte.max() > 200
    expected = nn.functional.conv3d(byte, weight.double(), padding=1, stride=stride) * 2.0**-10
    assert torch.equal(found, expected.bfloat16())
    check_moments(scale, shift, expected)


@pytest.mark.parametrize("channels", [(32,), (64,), (64, 32)])
def test_int8_of_a_quantised_layer(channels):
    """Against the layer in fp64: the error is that of rounding to bytes."""
    raw = sources(channels, (1, 6, 8, 20), lambda i, *shape: tensor(*shape, seed=i))
    exact = [activated(*source) for source in raw]
    signed = [len(channels) == 2, False]
    steps = tuple(float((a.abs().max() / 127) if both else a.max() / 255) for a, both in zip(exact, signed, strict=False))
    ranges = quantization.Ranges(channels, steps, tuple(128 if both else 0 for both in signed[: len(channels)]))
    weight = torch.randn(OUTPUTS, sum(channels), 3, 3, 3, generator=generator(3))
    found = quantization.quantise(weight, ranges)
    values = torch.cat((found.factor, found.offset, torch.tensor([*steps, 1.0][:2] + [*ranges.zeros, 0][:2])))
    y, _, _ = convolve(raw, pack.amx_int8(found.weight), 1, INT8, values)
    assert error(y, nn.functional.conv3d(torch.cat(exact, 1), weight.double(), padding=1)) < 2e-2


def test_neither_threads_nor_batch_change_a_bit():
    raw = sources((32,), (2, 12, 20, 80), lambda i, *shape: tensor(*shape))
    weight = pack.amx_bf16(torch.randn(OUTPUTS, 32, 3, 3, 3, generator=generator(3)) * 0.05)
    expected = convolve(raw, weight, 1, BF16)
    for count in (1, 3, 4):
        torch.set_num_threads(count)
        alone = convolve(
            [
                tuple(
                    t[1:].contiguous(memory_format=torch.channels_last_3d if t.dim() == 5 else torch.contiguous_format)
                    for t in raw[0]
                )
            ],
            weight,
            1,
            BF16,
        )
        for one, both, found in zip(alone, expected, convolve(raw, weight, 1, BF16), strict=True):
            assert torch.equal(both, found) and torch.equal(both[1:], one)


def test_what_does_not_fit_is_refused():
    raw, weight = sources((64,), (1, 4, 4, 4), lambda i, *shape: tensor(*shape)), torch.zeros(OUTPUTS, 64, 3, 3, 3)
    with pytest.raises(RuntimeError, match="quantisation"):
        convolve(raw, pack.amx_int8(weight.to(torch.int8)), 1, INT8)
    with pytest.raises(RuntimeError, match="not packed"):
        convolve(raw, pack.amx_bf16(weight)[:, :, 1:].contiguous(), 1, BF16)


@pytest.mark.skipif("amx_tile" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"), reason="this CPU has no AMX")
def test_tiles_are_real_where_the_cpu_has_them():
    assert build.amx()
