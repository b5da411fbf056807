"""The CUDA C++ kernels against PyTorch in float64, on a GPU for which they are written."""

import pytest
import torch
from torch.nn import functional

from unet3d.network import quantization
from unet3d.network.cuda_ops import kernels, layers

pytest.importorskip("triton")
from unet3d.network.triton_ops import norm

ARCHITECTURE = "sm_{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else None
REASON = kernels.why_not(ARCHITECTURE)
on_hopper = pytest.mark.skipif(REASON is not None, reason=f"the CUDA kernels cannot run: {REASON}")
TYPES = {torch.float16: 1e-3, torch.bfloat16: 1e-2}
SLOPE = 0.01
# Extents that are no multiples of tiles, on either side of one tile, and one whose planes are shared by several programs.
EXTENTS = [(5, 7, 3), (1, 16, 16), (3, 17, 33), (9, 40, 24), (2, 31, 8)]


def draw(*shape, dtype=torch.float32, mean=0.0):
    x = (torch.randn(shape, device="cuda") + mean).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if len(shape) == 5 else x


def weights(*shape, dtype):
    return (torch.randn(shape, device="cuda") / (shape[1] * 27) ** 0.5).to(dtype)


def affine(n, channels):
    return torch.rand((n, channels), device="cuda") + 0.5, torch.randn((n, channels), device="cuda")


def activated(x, scale, shift):
    """In float64, rounded to x's type as the kernels do before they multiply."""
    if scale is None:
        return x.double()
    y = x.double() * scale.double()[:, :, None, None, None] + shift.double()[:, :, None, None, None]
    return functional.leaky_relu(y, SLOPE).to(x.dtype).double()


def relative_error(output, expected):
    assert output.shape == expected.shape
    return ((output.double() - expected).norm() / expected.norm()).item()


def check_moments(part, expected, limit=1e-4):
    """Scale and shift from the rows of moments, against those of PyTorch's instance normalisation in float64."""
    channels = expected.shape[1]
    gamma, beta = torch.rand(channels, device="cuda") + 0.5, torch.randn(channels, device="cuda")
    scale, shift = norm.fold(part, gamma, beta, 1e-5)
    got = expected * scale.double()[:, :, None, None, None] + shift.double()[:, :, None, None, None]
    assert relative_error(got, functional.instance_norm(expected, weight=gamma.double(), bias=beta.double())) < limit


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(
    ("n", "a", "b", "outputs"), [(1, 32, 0, 32), (2, 32, 32, 32), (1, 64, 0, 64), (3, 32, 0, 64), (2, 64, 64, 64)]
)
@torch.inference_mode()
def test_walk(dtype, extent, n, a, b, outputs):
    x, skip = draw(n, a, *extent, dtype=dtype, mean=0.3), draw(n, b, *extent, dtype=dtype) if b else None
    # What an upsampling gives is not normalised, a skip connection is.
    scale, shift = affine(n, a) if not b else (None, None)
    skip_scale, skip_shift = affine(n, b) if b else (None, None)
    w = weights(outputs, a + b, 3, 3, 3, dtype=dtype)
    sources = [activated(x, scale, shift)] + ([activated(skip, skip_scale, skip_shift)] if b else [])
    expected = functional.conv3d(torch.cat(sources, 1), w.double(), padding=1)
    y, part = layers.walk(x, scale, shift, skip, skip_scale, skip_shift, SLOPE, layers.pack_walk_weight(w))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative_error(y, expected) < TYPES[dtype]
    check_moments(part, expected)


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(
    ("n", "a", "b", "outputs"), [(1, 32, 0, 32), (2, 32, 32, 32), (1, 32, 64, 32), (1, 64, 64, 64), (2, 128, 128, 64)]
)
@torch.inference_mode()
def test_walk_in_bytes(dtype, extent, n, a, b, outputs):
    """Exact sums of bytes: what is left is the rounding of the output."""
    x, skip = draw(n, a, *extent, dtype=dtype), draw(n, b, *extent, dtype=dtype) if b else None
    scale, shift = affine(n, a) if not b else (None, None)
    skip_scale, skip_shift = affine(n, b) if b else (None, None)
    ranges = quantization.Ranges((a, b), (0.03, 0.02), (128, 0)) if b else quantization.Ranges((a,), (0.02,), (0,))
    quantised = quantization.quantise(weights(outputs, a + b, 3, 3, 3, dtype=torch.float32), ranges)
    dequantised, sources = [], [activated(x, scale, shift)] + ([activated(skip, skip_scale, skip_shift)] if b else [])
    for source, step, zero in zip(sources, ranges.steps, ranges.zeros, strict=True):
        level = source / step + zero
        # Whole numbers, the half of which is the only one that float32 and float64 may round apart.
        dequantised.append((level.round().clamp(0, 255) - zero) * step)
    steps = torch.cat(
        [torch.full((c,), step, dtype=torch.float64) for c, step in zip(ranges.channels, ranges.steps, strict=True)]
    )
    w = quantised.weight.double() * quantised.factor.double().view(-1, 1, 1, 1, 1) / steps.cuda().view(1, -1, 1, 1, 1)
    expected = functional.conv3d(torch.cat(dequantised, 1), w, padding=1)
    numbers = torch.tensor([*(*ranges.steps, 1.0)[:2], *(*ranges.zeros, 0.0)[:2]], device="cuda")
    packed = torch.cat((quantised.factor, quantised.offset, numbers))
    y, part = layers.walk(
        x, scale, shift, skip, skip_scale, skip_shift, SLOPE, layers.pack_walk_weight(quantised.weight), packed
    )
    assert relative_error(y, expected) < 2 * TYPES[dtype]
    check_moments(part, expected, 1e-3)


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(("n", "outputs"), [(1, 64), (2, 128)])
@torch.inference_mode()
def test_stride(dtype, extent, n, outputs):
    x, w = draw(n, 32, *extent, dtype=dtype, mean=0.3), weights(outputs, 32, 3, 3, 3, dtype=dtype)
    scale, shift = affine(n, 32)
    expected = functional.conv3d(activated(x, scale, shift), w.double(), stride=2, padding=1)
    y, part = layers.stride(x, scale, shift, SLOPE, layers.pack_stride_weight(w))
    assert relative_error(y, expected) < TYPES[dtype]
    check_moments(part, expected)


@on_hopper
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@torch.inference_mode()
def test_a_volume_on_another_device_than_the_current_one():
    x, w = draw(1, 4, 5, 7, 33, dtype=torch.float16), weights(32, 4, 3, 3, 3, dtype=torch.float16)
    expected = functional.conv3d(x.double(), w.double(), padding=1)
    assert torch.cuda.current_device() == 0
    y, _ = layers.first(x.to("cuda:1"), layers.pack_first_weight(w.to("cuda:1")))
    assert y.device == torch.device("cuda:1")
    assert relative_error(y.to("cuda:0"), expected) < TYPES[torch.float16]


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("n", [1, 2])
@torch.inference_mode()
def test_first(dtype, extent, n):
    x, w = draw(n, 4, *extent, dtype=dtype, mean=0.3), weights(32, 4, 3, 3, 3, dtype=dtype)
    expected = functional.conv3d(x.double(), w.double(), padding=1)
    y, part = layers.first(x, layers.pack_first_weight(w))
    assert relative_error(y, expected) < TYPES[dtype]
    check_moments(part, expected)


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 32, 32), (1, 64, 32), (2, 128, 64), (2, 256, 32)])
@torch.inference_mode()
def test_upsample(dtype, extent, n, inputs, outputs):
    x, w = draw(n, inputs, *extent, dtype=dtype), weights(inputs, outputs, 2, 2, 2, dtype=dtype)
    scale, shift = affine(n, inputs)
    expected = functional.conv_transpose3d(activated(x, scale, shift), w.double(), stride=2)
    y = layers.upsample(x, scale, shift, SLOPE, layers.pack_upsample_weight(w))
    assert relative_error(y, expected) < TYPES[dtype]


@on_hopper
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize(("n", "classes", "biased"), [(1, 4, True), (2, 4, False), (2, 8, True)])
@torch.inference_mode()
def test_head(dtype, extent, n, classes, biased):
    x, w = draw(n, 32, *extent, dtype=dtype, mean=0.3), (torch.randn((32, classes), device="cuda") / 6).to(dtype)
    bias = torch.randn(classes, device="cuda").to(dtype) if biased else None
    scale, shift = affine(n, 32)
    weight = w.double().t()[:, :, None, None, None]
    expected = functional.conv3d(activated(x, scale, shift), weight, bias.double() if biased else None)
    y = layers.head(x, scale, shift, w, bias, SLOPE)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative_error(y, expected) < TYPES[dtype]


@pytest.mark.skipif(kernels.why_not(kernels.ARCHITECTURE) is not None, reason="cuda-bindings and NVRTC are not installed")
@pytest.mark.parametrize("types", [(), ("BFLOAT16",)])
@pytest.mark.parametrize(
    ("name", "defines", "shared"),
    [
        *(
            (
                "walk",
                (f"SLABS={slabs}", f"TILE_Y={tile[0]}", f"TILE_X={tile[1]}", *types, *walks),
                layers.walk_room(operand, slabs, tile),
            )
            for operand, most, types in ((layers.HALF, 2, ()), (layers.BYTES, 4, ("INT8",)))
            for slabs in range(1, most + 1)
            for tile in layers.WALK_TILES
            for walks in ((), *((("GIVES_SUMS",), ("TAKES_SUMS",)) if slabs == most else ()))
        ),
        ("stride", (), layers.HALF.room(layers.STRIDE_PIXELS, layers.HALF.weight_bytes(layers.STRIDE_OUT))),
        ("first", (), (0, 0)),
        ("head", (), (0, 0)),
        *(
            ("upsample", (f"CIN={inputs}", f"PROGRAMS={layers.upsample_programs(inputs)}"), (0, 0))
            for inputs in layers.UPSAMPLED
        ),
    ],
)
def test_kernels_compile_and_fit(name, defines, shared, types):
    """Without a GPU too: two slabs or more fit beside the weights, and matrix instructions follow each other unwaited for.

    For want of registers the compiler lets each end before the next, at 1.2 to 4 times the time.
    """
    stages, size = shared
    code, remarks = kernels.compiled(name, (*defines, f"STAGES={stages}", *types), anew=True)
    assert code.startswith(b"\x7fELF") and "Used" in remarks and "serialized" not in remarks, remarks
    assert size <= kernels.SHARED_BYTES and (stages >= 2 or not size)


@pytest.mark.skipif(kernels.why_not(kernels.ARCHITECTURE) is not None, reason="cuda-bindings and NVRTC are not installed")
def test_what_does_not_compile_is_told_in_the_compilers_words():
    with pytest.raises(RuntimeError, match=r"walk.cu with SLABS=1: NVRTC_ERROR_COMPILATION(.|\n)*STAGES"):
        kernels.compiled("walk", ("SLABS=1",))


def test_other_gpus_are_told_why():
    assert kernels.why_not("sm_80") == "they are written for sm_90, this GPU is sm_80"
    assert kernels.why_not(None) == "they are written for sm_90, this GPU is of another kind"


@pytest.mark.parametrize(("inputs", "dtype"), [(64, torch.float16), (128, torch.int8)])
def test_two_walks_have_the_weights_of_one_source_each(inputs, dtype):
    w = torch.randint(-127, 127, (64, 2 * inputs, 3, 3, 3)).to(dtype)
    halves = [layers.pack_walk_weight(w[:, :inputs]), layers.pack_walk_weight(w[:, inputs:])]
    assert torch.equal(layers.pack_walk_weight(w), torch.cat(halves))


@pytest.mark.parametrize(
    ("plane", "tile"),
    [((224, 160), (16, 16)), ((112, 80), (16, 16)), ((56, 40), (32, 8)), ((7, 3), (16, 16)), ((17, 33), (32, 8))],
)
def test_a_walks_tile_wastes_least(plane, tile):
    assert layers.walk_tile(*plane) == tile


def test_weights_of_other_widths_are_refused():
    for inputs in (48, 96, 192):
        with pytest.raises(ValueError, match="multiples of 32 channels, up to 64 inputs in one walk and twice as many in two"):
            layers.pack_walk_weight(torch.zeros(32, inputs, 3, 3, 3))
    with pytest.raises(ValueError, match="32 inputs and 64 outputs or more"):
        layers.pack_stride_weight(torch.zeros(64, 64, 3, 3, 3))
    with pytest.raises(ValueError, match="4 inputs and 32 outputs"):
        layers.pack_first_weight(torch.zeros(64, 4, 3, 3, 3))
    assert not layers.can_head(64, 4) and not layers.can_head(32, 3) and not layers.can_head(32, 10)
    with pytest.raises(ValueError, match="inputs"):
        layers.pack_upsample_weight(torch.zeros(96, 32, 2, 2, 2))
