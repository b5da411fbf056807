"""The CPU's fused layers against PyTorch in float64: every form, odd extents, batches, two sources, any thread count."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unet3d.network.cpu_ops import build, forms, pack

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not build.available(), reason=build.status()[1])
SLOPE, EPS = 0.01, 1e-5
# Of one layer, in the tensors' type. Direct bf16 products round what was normalised, all bf16 forms round their output.
TOLERANCE = {
    "winograd 2x2x2, fp32 products": 1e-6,
    "winograd 4x4x4, fp32 products": 3e-6,
    "winograd 4x4x6, fp32 products": 6e-6,
    "winograd 4x6x6, fp32 products": 1.2e-5,
    "winograd 6x6x6, fp32 products": 2.5e-5,
    "direct, fp32 products": 2e-6,
}
BF16_TOLERANCE = {"direct, bf16 products": 4e-3}
FP32, BF16 = torch.float32, torch.bfloat16
FORMS = [(FP32, form) for form in TOLERANCE] + [(BF16, form) for form in [*TOLERANCE, *BF16_TOLERANCE]]
SHAPES = [(2, (5, 9, 7)), (1, (1, 2, 3)), (1, (13, 6, 19)), (1, (60, 9, 11))]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tolerance(storage, form):
    return TOLERANCE[form] if storage == FP32 else BF16_TOLERANCE.get(form, 2.2e-3)


def random(*shape, dtype=FP32, seed=1):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if x.dim() == 5 else x


def per_channel(values):
    return values.double().view(*values.shape, 1, 1, 1)


def activated(x, scale, shift):
    return nn.functional.leaky_relu(x.double() * per_channel(scale) + per_channel(shift), SLOPE)


def source(samples, channels, extents, storage, seed=1):
    """A raw tensor with the scale and shift of its normalisation."""
    return (
        random(samples, channels, *extents, dtype=storage, seed=seed),
        random(samples, channels, seed=seed + 1) * 0.2 + 1,
        random(samples, channels, seed=seed + 2) * 0.5,
    )


def error(found, expected):
    assert found.shape == expected.shape
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def skip_what_this_cpu_has_not(form):
    if form in BF16_TOLERANCE and not build.vectors().endswith("BF16"):
        pytest.skip("this CPU multiplies no bf16")


def packed(weight, form, storage):
    if form.startswith("winograd"):
        return pack.winograd(weight, tuple(map(int, form.split(",")[0].split()[1].split("x"))), storage)
    return pack.direct(weight, BF16 if "bf16" in form else FP32, storage)


def conv(x, weight, form, skip=(None, None, None), stride=1, gamma=None, beta=None):
    outputs = weight.shape[0]
    gamma = torch.ones(outputs) if gamma is None else gamma
    beta = torch.zeros(outputs) if beta is None else beta
    return torch.ops.unet3d_fused.conv(*x, *skip, SLOPE, packed(weight, form, x[0].dtype), stride, gamma, beta, EPS, form)


def poison(call, x, *more):
    """Leave NaN in the kept memory: in scratch by NaN for an input, in the output's buffer by hand."""
    output = call((x[0] * torch.nan, *x[1:]), *more)
    (output[0] if isinstance(output, tuple) else output).fill_(torch.nan)


@pytest.mark.parametrize("samples, extents", SHAPES)
@pytest.mark.parametrize("storage, form", FORMS)
def test_every_form_of_a_convolution(storage, form, samples, extents):
    skip_what_this_cpu_has_not(form)
    x, weight = source(samples, 64, extents, storage), random(32, 64, 3, 3, 3, seed=9) * 0.03
    gamma, beta = random(32, seed=5), random(32, seed=6)
    poison(conv, x, weight, form)
    y, scale, shift = conv(x, weight, form, gamma=gamma, beta=beta)
    expected = nn.functional.conv3d(activated(*x), weight.double(), padding=1)
    assert y.dtype == storage and y.is_contiguous(memory_format=torch.channels_last_3d)
    assert error(y, expected) < tolerance(storage, form)
    normalised = nn.functional.instance_norm(expected, weight=gamma.double(), bias=beta.double(), eps=EPS)
    assert error(y.double() * per_channel(scale) + per_channel(shift), normalised) < 3 * tolerance(storage, form)


@pytest.mark.parametrize("samples, extents", [(2, (5, 9, 7)), (1, (16, 30, 28))])
@pytest.mark.parametrize("storage, form", [case for case in FORMS if case[1].startswith("direct")])
def test_stride_two(storage, form, samples, extents):
    skip_what_this_cpu_has_not(form)
    x, weight = source(samples, 32, extents, storage), random(64, 32, 3, 3, 3, seed=9) * 0.03
    poison(conv, x, weight, form, (None, None, None), 2)
    y, *_ = conv(x, weight, form, stride=2)
    assert error(y, nn.functional.conv3d(activated(*x), weight.double(), padding=1, stride=2)) < tolerance(storage, form)


@pytest.mark.parametrize("storage, form", FORMS)
def test_two_sources_are_one_concatenated(storage, form):
    skip_what_this_cpu_has_not(form)
    up, skip = (random(2, 32, 6, 7, 9, dtype=storage, seed=4), None, None), source(2, 64, (6, 7, 9), storage)
    weight = random(96, 96, 3, 3, 3, seed=9) * 0.02
    y, *_ = conv(up, weight, form, skip)
    joined = torch.cat((up[0].double(), activated(*skip)), 1)
    assert error(y, nn.functional.conv3d(joined, weight.double(), padding=1)) < tolerance(storage, form)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("storage, products", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
def test_the_networks_input(storage, products, channels):
    form = forms.DIRECT[products]
    skip_what_this_cpu_has_not(form)
    x, weight = random(2, channels, 10, 11, 37, dtype=storage), random(32, channels, 3, 3, 3, seed=2).to(storage).float()
    y, *_ = torch.ops.unet3d_fused.conv(
        x,
        None,
        None,
        None,
        None,
        None,
        SLOPE,
        pack.direct_input(weight, products),
        1,
        torch.ones(32),
        torch.zeros(32),
        EPS,
        form,
    )
    assert error(y, nn.functional.conv3d(x.double(), weight.double(), padding=1)) < tolerance(storage, form)


@pytest.mark.parametrize("storage, products", [(FP32, FP32), (BF16, FP32), (BF16, BF16)])
@pytest.mark.parametrize("extents", [(3, 5, 7), (2, 1, 100)])
def test_upsampling(storage, products, extents):
    skip_what_this_cpu_has_not(forms.DIRECT[products])
    x, weight = source(2, 64, extents, storage), random(64, 32, 2, 2, 2, seed=9) * 0.1
    kept = pack.direct(weight.transpose(0, 1), products, storage)

    def upsample(x):
        return torch.ops.unet3d_fused.upsample(*x, SLOPE, kept)

    poison(upsample, x)
    expected = nn.functional.conv_transpose3d(activated(*x), weight.double(), stride=2)
    assert error(upsample(x), expected) < tolerance(storage, forms.DIRECT[products])


@pytest.mark.parametrize("storage", [FP32, BF16])
@pytest.mark.parametrize("channels, classes, bias", [(32, 4, True), (64, 3, False), (32, 17, True)])
def test_head(storage, channels, classes, bias):
    x, weight = source(2, channels, (5, 9, 53), storage), random(classes, channels, 1, 1, 1, seed=9)
    biases = random(classes, seed=8) if bias else None
    kept = pack.head(weight, storage)

    def head(x):
        return torch.ops.unet3d_fused.head(*x, SLOPE, kept, biases)

    poison(head, x)
    expected = nn.functional.conv3d(activated(*x), weight.double(), None if biases is None else biases.double())
    assert error(head(x), expected) < (1e-6 if storage == FP32 else 2e-3)


@pytest.mark.parametrize("storage, form", FORMS)
def test_any_number_of_threads_gives_the_same_bits(storage, form):
    skip_what_this_cpu_has_not(form)
    x, weight = source(2, 32, (19, 13, 10), storage), random(64, 32, 3, 3, 3, seed=9) * 0.05
    results = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        results.append(conv(x, weight, form))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("form", TOLERANCE)
def test_moments_far_from_zero_and_of_a_constant(form):
    """A mean of 1000 deviations must not cancel; a constant channel has no variance, and gives beta."""
    x, weight = random(1, 32, 40, 24, 24), torch.zeros(32, 32, 3, 3, 3)
    x[:, 0] = 1000 + x[:, 0]
    x[:, 1] = 3
    weight[0, 0, 1, 1, 1] = weight[1, 1, 1, 1, 1] = weight[2, 2, 1, 1, 1] = 1
    beta = torch.full((32,), 0.25)
    y, scale, shift = conv((x, None, None), weight, form, beta=beta)
    variance, mean = torch.var_mean(y.double(), (2, 3, 4), correction=0)
    expected = 1 / torch.sqrt(variance + EPS)
    assert error(scale, expected) < 1e-6
    assert error(shift - beta, -mean * expected) < 1e-6
    assert (y[:, 1] * scale[0, 1] + shift[0, 1] - 0.25).abs().max() < 1e-2


@pytest.mark.parametrize("storage, form", FORMS)
def test_padded_channels_are_exactly_zero(storage, form):
    skip_what_this_cpu_has_not(form)
    x, weight = source(1, 32, (6, 6, 6), storage), pack.pad(random(8, 32, 3, 3, 3, seed=9), 0)
    y, scale, shift = conv(x, weight, form, gamma=pack.pad(torch.ones(8), 0), beta=pack.pad(torch.ones(8), 0))
    assert not y[:, 8:].any() and not scale[:, 8:].any() and not shift[:, 8:].any() and y[:, :8].all()


def test_kept_memory_is_used_again_but_never_while_it_is_held():
    x, weight = source(1, 32, (32, 32, 16), FP32), random(32, 32, 3, 3, 3, seed=2)
    form = forms.DIRECT[FP32]
    held = conv(x, weight, form)[0]
    copy, address = held.clone(), held.data_ptr()
    other = conv(x, weight * 2, form)[0]
    assert other.data_ptr() != address and torch.equal(held, copy)
    del held, other
    assert conv(x, weight, form)[0].data_ptr() == address


def test_mistakes_are_refused():
    x, weight = source(1, 32, (4, 4, 4), FP32), random(32, 32, 3, 3, 3)
    form = forms.DIRECT[FP32]
    with pytest.raises(RuntimeError, match="no form"):
        torch.ops.unet3d_fused.conv(*x, None, None, None, SLOPE, weight, 1, torch.ones(32), torch.ones(32), EPS, "guess")
    with pytest.raises(RuntimeError, match="not packed"):
        torch.ops.unet3d_fused.conv(
            *x, None, None, None, SLOPE, weight[:16].contiguous(), 1, torch.ones(32), torch.ones(32), EPS, form
        )
    with pytest.raises(RuntimeError, match="has no stride"):
        conv(x, weight, "winograd 2x2x2, fp32 products", stride=2)
    with pytest.raises(RuntimeError, match="multiple of 32"):
        conv(source(1, 40, (4, 4, 4), FP32), random(32, 64, 3, 3, 3), form)


def status_in_new_process(**variables):
    code = "from unet3d.network.cpu_ops import build; print(*build.status())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("missing, remedy", [("c++", "install g++"), ("ninja", "pip install ninja")])
def test_without_a_tool_the_reason_says_which(monkeypatch, tmp_path, missing, remedy):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = build.shutil.which
    monkeypatch.setattr(build.shutil, "which", lambda name, **named: None if name == missing else found(name) or name)
    monkeypatch.delenv("UNET3D_KERNELS", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    form, reason = build.status.__wrapped__()
    assert form == "fallback" and remedy in reason


@pytest.fixture
def not_activated(monkeypatch, tmp_path):
    """An environment with a ninja of its own, none of whose programs is on PATH."""
    for folder, name in (("path", "c++"), ("scripts", "ninja")):
        program = tmp_path / folder / name
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho 1.13\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "ninja", None)
    return tmp_path


def test_ninja_of_an_environment_that_is_not_activated_builds(not_activated, monkeypatch):
    """PyTorch's loader calls it by its name."""

    def load(name, sources, build_directory, **options):
        assert subprocess.check_output(["ninja", "--version"], text=True) == "1.13\n"
        (Path(build_directory) / f"{name}.so").write_bytes(b"compiled")

    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    library = build.build(not_activated / "cache")
    assert library.read_bytes() == b"compiled" and build.whole_library(not_activated / "cache") == library
    assert os.environ["PATH"] == str(not_activated / "path")


def test_ninja_on_path_comes_first_and_none_is_none(not_activated, monkeypatch):
    assert build.ninja() == not_activated / "scripts" / "ninja"
    (not_activated / "scripts" / "ninja").rename(not_activated / "path" / "ninja")
    assert build.ninja() == not_activated / "path" / "ninja"
    (not_activated / "path" / "ninja").rename(not_activated / "ninja")
    assert build.ninja() is None
    monkeypatch.setitem(sys.modules, "ninja", SimpleNamespace(BIN_DIR=str(not_activated)))
    assert build.ninja() == not_activated / "ninja"


def test_a_compiler_that_fails_is_said(tmp_path):
    text = status_in_new_process(XDG_CACHE_HOME=str(tmp_path), CXX="false", UNET3D_KERNELS="")
    assert text.startswith("fallback cannot build or load the C++ operators")


def test_they_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("UNET3D_KERNELS", "off")
    assert build.status.__wrapped__() == ("fallback", "switched off by UNET3D_KERNELS=off")


def test_another_cpu_gets_a_library_of_its_own(monkeypatch):
    monkeypatch.delenv("UNET3D_MARCH", raising=False)
    here, read = build.cache_folder("2.13.0"), Path.read_text

    def of_another_cpu(path, *arguments, **options):
        return "flags\t\t: fpu sse2 avx2\n" if str(path) == "/proc/cpuinfo" else read(path, *arguments, **options)

    with monkeypatch.context() as changed:
        changed.setattr(Path, "read_text", of_another_cpu)
        assert build.cache_folder("2.13.0") != here
    assert build.cache_folder("2.13.0") == here
    monkeypatch.setenv("UNET3D_MARCH", "haswell")
    assert build.cache_folder("2.13.0") != here


@pytest.mark.parametrize("content", [b"", b"\x7fELF cut", b"another library"])
def test_a_library_whose_content_is_not_that_of_its_name_is_not_loaded(tmp_path, content):
    whole = tmp_path / "compiled.so"
    whole.write_bytes(b"\x7fELF cut off here")
    named = build.named(tmp_path, whole)
    assert build.whole_library(tmp_path) is None
    named.write_bytes(content)
    assert build.whole_library(tmp_path) is None
    named.write_bytes(whole.read_bytes())
    assert build.whole_library(tmp_path) == named
