"""The C++ operators against PyTorch's own, and what happens where they cannot be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unet3d.network.cpu_ops import library

ROOT = Path(__file__).parents[2]
needs_operators = pytest.mark.skipif(not library.available(), reason=library.status()[1])
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
TYPES = [dtype for dtype in TOLERANCE if library.computes(dtype)[0] == "native"]


def random(*shape, dtype=torch.float32, seed=1):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last_3d) if x.dim() == 5 else x


def close(found, expected, dtype):
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    return found.shape == expected.shape and error < TOLERANCE[dtype]


@needs_operators
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("samples, inputs, outputs", [(1, 4, 32), (2, 5, 7), (1, 33, 40)])
@torch.inference_mode()
def test_convolutions(dtype, samples, inputs, outputs):
    x, weight = random(samples, inputs, 6, 8, 10, dtype=dtype), random(outputs, inputs, 3, 3, 3, seed=2)
    exact, rounded = x.double(), weight.to(dtype).double()
    for stride in (1, 2):
        found = torch.ops.unet3d_cpu.conv(x, weight, [stride] * 3, [1] * 3)
        assert close(found, nn.functional.conv3d(exact, rounded, padding=1, stride=stride), dtype)
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
    sum_before = random(samples, outputs, 6, 8, 10, dtype=dtype, seed=3)
    expected = sum_before.double() + nn.functional.conv3d(exact, rounded, padding=1)
    torch.ops.unet3d_cpu.conv_add_(sum_before, x, weight, [1] * 3, [1] * 3)
    assert close(sum_before, expected, dtype)
    kernel = random(inputs, outputs, 4, 4, 4, seed=4)
    found = torch.ops.unet3d_cpu.conv_transpose(x, kernel, [2] * 3, [1] * 3)
    assert close(found, nn.functional.conv_transpose3d(exact, kernel.to(dtype).double(), stride=2, padding=1), dtype)


@needs_operators
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("samples, channels", [(1, 32), (2, 7), (1, 40)])
@torch.inference_mode()
def test_norm_and_head(dtype, samples, channels):
    x = random(samples, channels, 6, 8, 10, dtype=dtype) * 3 + 5
    weight, bias, head = random(channels), random(channels, seed=2), random(4, channels, 1, 1, 1, seed=3)
    expected = nn.functional.leaky_relu(
        nn.functional.instance_norm(x.double(), weight=weight.double(), bias=bias.double()), 0.01
    )
    logits = torch.ops.unet3d_cpu.norm_act_head(x, weight, bias, 1e-5, 0.01, head)
    assert close(logits, nn.functional.conv3d(expected, head.double()), dtype)
    torch.ops.unet3d_cpu.norm_act_(x, weight, bias, 1e-5, 0.01)
    assert close(x, expected, dtype)


@needs_operators
@torch.inference_mode()
def test_a_changed_weight_is_packed_anew():
    x = random(1, 4, 4, 4, 4)
    with torch.inference_mode(False):
        weight = torch.zeros(8, 4, 3, 3, 3)
    assert not torch.ops.unet3d_cpu.conv(x, weight, [1] * 3, [1] * 3).any()
    weight.fill_(1)
    found = torch.ops.unet3d_cpu.conv(x, weight, [1] * 3, [1] * 3)
    assert close(found, nn.functional.conv3d(x.double(), weight.double(), padding=1), torch.float32)


@needs_operators
@torch.inference_mode()
def test_pooled_memory_is_used_again_but_never_while_it_is_held():
    x, weight = random(1, 8, 32, 32, 48), random(8, 8, 3, 3, 3, seed=2)
    held = torch.ops.unet3d_cpu.conv(x, weight, [1] * 3, [1] * 3)
    copy, address = held.clone(), held.data_ptr()
    other = torch.ops.unet3d_cpu.conv(x, weight * 2, [1] * 3, [1] * 3)
    assert other.data_ptr() != address and torch.equal(held, copy)
    del held
    assert torch.ops.unet3d_cpu.conv(x, weight, [1] * 3, [1] * 3).data_ptr() == address


def test_another_cpu_gets_a_library_of_its_own(monkeypatch):
    """A library made for AVX-512 must not be loaded by a CPU without it: the folder depends on the CPU's flags."""
    here = library._cache_folder("2.13.0")
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *a, **k: "flags\t\t: fpu sse2 avx2\n" if str(path) == "/proc/cpuinfo" else read(path, *a, **k),
    )
    assert library._cache_folder("2.13.0") != here


def status_in_new_process(**variables):
    code = "from unet3d.network.cpu_ops import library; print(*library.status())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("missing, remedy", [("c++", "install g++"), ("ninja", "pip install ninja")])
def test_without_a_tool_the_fallback_says_which(monkeypatch, tmp_path, missing, remedy):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = library.shutil.which
    monkeypatch.setattr(library.shutil, "which", lambda name: None if name == missing else found(name) or name)
    monkeypatch.delenv("UNET3D_KERNELS", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    form, reason = library._load.__wrapped__()
    assert form == "fallback" and remedy in reason


def test_a_compiler_that_fails_is_a_labelled_fallback(tmp_path):
    text = status_in_new_process(XDG_CACHE_HOME=str(tmp_path), CXX="false", UNET3D_KERNELS="")
    assert text.startswith("fallback cannot build or load the C++ operators")


def test_they_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("UNET3D_KERNELS", "off")
    assert library._load.__wrapped__() == ("fallback", "switched off by UNET3D_KERNELS=off")


def engine_for(reference, **changes):
    from unet3d.devices.cpu import CpuDevice
    from unet3d.engines.base import Request
    from unet3d.engines.pytorch.engine import TorchEngine

    engine = TorchEngine(Request(engine="torch", device=CpuDevice(), **{"precision": "fp32", **changes}))
    engine.load(reference)
    engine.compare(torch.zeros(1, 4, 64, 32, 32).numpy())
    return engine


@needs_operators
@pytest.mark.parametrize("jit", ["none", "trace"])
def test_results_say_that_they_ran(narrow_reference, jit):
    engine = engine_for(narrow_reference, jit=jit)
    details = engine.effective().details
    assert details["operators"].startswith("native") and not engine.warnings
    assert "mkldnn::_convolution_transpose_pointwise" in details["convolutions"]["fp32"]


def test_results_and_a_warning_say_why_they_did_not(narrow_reference, monkeypatch):
    monkeypatch.setattr(library, "_load", lambda: ("fallback", "no C++ compiler (install g++)"))
    engine = engine_for(narrow_reference)
    details = engine.effective().details
    assert details["operators"] == "fallback: no C++ compiler (install g++)"
    assert not any(name.startswith("mkldnn::_convolution_transpose_pointwise") for name in details["convolutions"]["fp32"])
    ((name, text),) = engine.warnings
    assert name == "fallback-operators" and "install g++" in text
