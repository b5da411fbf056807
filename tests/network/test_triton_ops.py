"""The Triton kernels against PyTorch in float64: on a GPU where there is one, else on Triton's interpreter."""

import pytest
import torch

GPU = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), None)
pytest.importorskip("triton")
DEVICE = GPU or "cpu"

from torch.nn import functional  # noqa: E402

from unet3d.network.triton_ops import conv, gemm, layout, march, norm, ops, planes  # noqa: E402, F401

SLOPE = 0.01
# Rounding of the operands is not the kernels' error: references start from the rounded numbers.
# The interpreter multiplies bf16 matrices as if they were integers.
PRODUCTS = [torch.float16, torch.bfloat16] if GPU else [torch.float16]
LIMITS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def volume(*shape, dtype=torch.float16, seed=1, mean=0.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean
    x = x.to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x


def relative_error(output, expected):
    output, expected = output.double().cpu(), expected.double().cpu()
    assert output.shape == expected.shape
    return ((output - expected).norm() / expected.norm()).item()


def normalised(x, weight, bias, eps=1e-5):
    x = functional.instance_norm(x.double(), weight=weight.double(), bias=bias.double(), eps=eps)
    return functional.leaky_relu(x, SLOPE)


def scaled(x, scale, shift):
    """In float64, rounded to x's type as the kernels do before they multiply."""
    scale, shift = (t.double().view(*t.shape, 1, 1, 1) for t in (scale, shift))
    return functional.leaky_relu(x.double() * scale + shift, SLOPE).to(x.dtype).double()


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(1, 32, 8, 16, 16), (2, 8, 5, 7, 3), (3, 80, 4, 4, 4), (1, 320, 2, 2, 1)])
def test_norm_and_activation(dtype, shape):
    x = volume(*shape, dtype=dtype, mean=2.0)
    weight, bias = volume(shape[1], dtype=torch.float32, seed=2), volume(shape[1], dtype=torch.float32, seed=3)
    y = norm.instance_norm_leaky_relu(x, weight, bias)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative_error(y, normalised(x, weight, bias)) < LIMITS[dtype]


def test_moments_far_from_zero_mean():
    """Sums of squares would lose everything here: the mean is 3000 times the deviation."""
    x = volume(1, 16, 8, 16, 16, dtype=torch.float32) * 0.1 + 300
    ones, zeros = torch.ones(16, device=DEVICE), torch.zeros(16, device=DEVICE)
    scale, _ = norm.fold(norm.moments(x), ones, zeros, 0.0)
    expected = 1 / x.double().std(dim=(2, 3, 4), correction=0)
    assert relative_error(scale, expected) < 1e-4


def test_normalises_into_channels_of_a_wider_tensor():
    x = volume(2, 16, 4, 6, 5)
    weight, bias = volume(16, dtype=torch.float32, seed=2), volume(16, dtype=torch.float32, seed=3)
    wide = layout.new_volume(2, 48, (4, 6, 5), x).fill_(7)
    norm.instance_norm_leaky_relu(x, weight, bias, out=wide[:, 16:32])
    assert relative_error(wide[:, 16:32], normalised(x, weight, bias)) < 1e-3
    assert (wide[:, :16] == 7).all() and (wide[:, 32:] == 7).all()


def test_other_layouts_are_refused():
    with pytest.raises(ValueError, match="channels_last_3d"):
        norm.moments(torch.zeros(1, 8, 4, 4, 4, device=DEVICE))


def check_moments(part, y):
    ones, zeros = torch.ones(y.shape[1], device=DEVICE), torch.zeros(y.shape[1], device=DEVICE)
    scale, shift = norm.fold(part, ones, zeros, 1e-5)
    deviation = (y.double().var(dim=(2, 3, 4), correction=0) + 1e-5).sqrt()
    assert relative_error(scale, 1 / deviation) < 2e-3
    assert ((shift.double() + y.double().mean(dim=(2, 3, 4)) / deviation).abs() < 2e-3).all()


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape, cout", [((1, 4, 8, 8, 16), 32), ((2, 4, 36, 10, 18), 8)])
def test_first_convolution(dtype, shape, cout):
    x, w = volume(*shape, dtype=dtype), volume(cout, 4, 3, 3, 3, dtype=dtype, seed=2)
    y, part = conv.conv_first(x, conv.pack_first_weight(w))
    expected = functional.conv3d(x.double(), w.double(), padding=1)
    assert relative_error(y, expected) < LIMITS[dtype]
    check_moments(part, expected)


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize(
    "shape, cout, planes", [((2, 32, 5, 6, 18), 32, 2), ((2, 16, 3, 4, 16), 32, 3), ((1, 32, 3, 9, 5), 16, 56)]
)
def test_marching_convolution(dtype, shape, cout, planes):
    """Walks of which the last is shorter, just as long as the volume is deep, and longer; tiles that stand out of it."""
    x, w = volume(*shape, dtype=dtype, mean=0.5), volume(cout, shape[1], 3, 3, 3, dtype=dtype, seed=2)
    y, part = march.conv_march(x, march.pack_march_weight(w), planes)
    expected = functional.conv3d(x.double(), w.double(), padding=1)
    assert relative_error(y, expected) < LIMITS[dtype]
    check_moments(part, expected)


def test_marching_convolution_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="not 64 and 32"):
        march.pack_march_weight(volume(32, 64, 3, 3, 3))
    with pytest.raises(ValueError, match="32 inputs"):
        march.conv_march(volume(1, 16, 4, 4, 4), march.pack_march_weight(volume(32, 32, 3, 3, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [2, 3, 4, 99])
def test_convolution_by_planes(dtype, chunk):
    """Chunks that divide the depth, that leave a remainder of one and of more planes, and one for the whole volume."""
    x, w = volume(2, 16, 7, 6, 10, dtype=dtype, mean=0.5), volume(8, 16, 3, 3, 3, dtype=dtype, seed=2)
    y, part = planes.conv_planes(x, planes.pack_planes_weight(w), chunk)
    expected = functional.conv3d(x.double(), w.double(), padding=1)
    assert relative_error(y, expected) < LIMITS[dtype]
    check_moments(part, expected)


def test_a_chunk_of_one_plane_is_refused():
    x, w = volume(1, 16, 4, 4, 4), volume(8, 16, 3, 3, 3)
    with pytest.raises(ValueError, match="at least 2"):
        planes.conv_planes(x, planes.pack_planes_weight(w), 1)


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape, cout", [((2, 64, 3, 4, 5), 32), ((1, 24, 2, 3, 5), 8)])
def test_upsampling_beside_the_skip_connection(dtype, shape, cout):
    n, c, d, h, width = shape
    x, w = volume(*shape, dtype=dtype), volume(c, cout, 2, 2, 2, dtype=dtype, seed=2)
    skip = volume(n, cout, 2 * d, 2 * h, 2 * width, dtype=dtype, seed=3)
    norms = [volume(n, channels, dtype=torch.float32, seed=seed) for seed, channels in ((4, c), (5, c), (6, cout), (7, cout))]
    out = torch.ops.unet3d.conv_upsample(x, norms[0], norms[1], SLOPE, gemm.pack_upsample_weight(w), skip, *norms[2:])
    up = functional.conv_transpose3d(scaled(x, *norms[:2]), w.double(), stride=2)
    assert relative_error(out, torch.cat((up, scaled(skip, *norms[2:])), dim=1)) < LIMITS[dtype]
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("biased", [True, False])
def test_head(dtype, biased):
    x, w = volume(2, 32, 3, 7, 5, dtype=dtype), volume(4, 32, 1, 1, 1, dtype=dtype, seed=2)
    scale, shift = volume(2, 32, dtype=torch.float32, seed=3), volume(2, 32, dtype=torch.float32, seed=4)
    bias = volume(4, dtype=dtype, seed=5) if biased else None
    y = torch.ops.unet3d.conv_head(x, scale, shift, SLOPE, w.flatten(1).t().contiguous(), bias)
    expected = functional.conv3d(scaled(x, scale, shift), w.double(), bias.double() if biased else None)
    assert relative_error(y, expected) < LIMITS[dtype]
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
