"""The torch engine: right in every precision and JIT, and its labels are those of what ran."""

import dataclasses
from types import SimpleNamespace

import making
import numpy as np
import pytest
import torch
from marks import HAS_BF16, needs_bf16

from unet3d.devices import host
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch import onednn
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.errors import MismatchError, UserError
from unet3d.measure import prepare
from unet3d.network.cpu_ops import build

VOLUME = np.random.default_rng(1).standard_normal((1, 4, 64, 64, 64), dtype=np.float32)
TOLERANCE = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.01}
# By Winograd with tiles of 4x6x6, which rounds to 2e-5 in a whole network; the direct sums of the reference to 1e-6.
WINOGRAD = {**TOLERANCE, "fp32": 5e-5}


def engine_for(reference, **changes):
    made = TorchEngine(Request(**{"engine": "torch", "device": CpuDevice(), "precision": "fp32", **changes}))
    made.load(reference)
    return made


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("jit", ["none", "trace"])
@pytest.mark.parametrize("amp", [True, False])
@pytest.mark.parametrize("network", ["fast", "reference"])
def test_agrees_with_nnunet_and_says_what_ran(narrow_reference, precision, jit, amp, network):
    engine = engine_for(narrow_reference, precision=precision, jit=jit, amp=amp, network=network)
    logits = engine.compare(VOLUME)
    with torch.inference_mode():
        expected = narrow_reference(torch.from_numpy(VOLUME)).numpy()
    limit = (WINOGRAD if network == "fast" else TOLERANCE)[precision]
    assert np.linalg.norm(logits - expected) < limit * np.linalg.norm(expected)
    effective = engine.effective()
    assert (effective.precision, effective.jit, effective.device) == (precision, jit, "cpu")
    assert effective.layout == ("channels_last_3d" if network == "fast" else effective.layout)
    labels = engine.labels(engine.infer(engine.stage(VOLUME)))
    assert labels.dtype == np.uint8
    assert (labels == logits.argmax(axis=1)).mean() > 0.999


def test_a_trace_that_pytorch_is_told_not_to_make_is_refused(narrow_reference, monkeypatch):
    monkeypatch.setattr(torch.jit._state._enabled, "enabled", False)  # what PYTORCH_JIT=0 does
    with pytest.raises(UserError, match=r"PYTORCH_JIT=0 does that; unset it"):
        engine_for(narrow_reference, jit="trace").compare(VOLUME)


def test_compiled_network_agrees_and_is_named_so(narrow_reference):
    precision = "bf16" if HAS_BF16 else "fp32"
    engine = engine_for(narrow_reference, precision=precision, jit="compile")
    logits = engine.compare(VOLUME)
    with torch.inference_mode():
        expected = narrow_reference(torch.from_numpy(VOLUME)).numpy()
    assert np.linalg.norm(logits - expected) < WINOGRAD[precision] * np.linalg.norm(expected)
    assert engine.effective().jit == "compile"


def test_a_batch_gives_each_volume_its_own_logits(narrow_reference):
    engine = engine_for(narrow_reference, jit="trace")
    alone = engine.compare(VOLUME)
    other = np.flip(VOLUME, axis=2).copy()
    both = engine.compare(np.concatenate([VOLUME, other]))
    np.testing.assert_allclose(both[:1], alone, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(both[1:], engine.compare(other), atol=1e-4, rtol=1e-4)


def test_a_network_that_runs_another_precision_is_found_out(narrow_reference):
    """The archived sample's worst defect: asked for bf16, eager fp32 ran, the label said otherwise."""
    engine = engine_for(narrow_reference, precision="bf16", jit="none", amp=True, network="reference")
    engine._autocast = lambda: torch.autocast("cpu", enabled=False)
    engine._dtype = torch.float32
    engine.compare(VOLUME)
    effective = engine.effective()
    assert effective.precision == "fp32"

    plan = SimpleNamespace(settings=making.settings_of(precision="bf16", jit="none"), device=CpuDevice())
    with pytest.raises(MismatchError, match="PRECISION=bf16 was asked for, fp32 ran"):
        prepare.must_match(plan, effective)


def test_nothing_observed_is_an_error_not_a_guess(narrow_reference):
    engine = engine_for(narrow_reference)
    with pytest.raises(MismatchError, match="no convolution was seen"):
        engine.effective()


@pytest.mark.parametrize(
    "has, precision, part",
    [
        ({"bf16"}, "fp16", "needs a CPU with AVX512-FP16, without it PyTorch takes hours per volume; use PRECISION=bf16"),
        (set(), "fp16", "use PRECISION=fp32"),
    ],
)
def test_refuses_a_precision_that_the_cpu_would_take_hours_for(monkeypatch, has, precision, part):
    monkeypatch.setattr(onednn, "computes", lambda name: name in has)
    [reason] = TorchEngine.refuse(Request(engine="torch", device=CpuDevice(), precision=precision))
    assert part in reason
    assert not TorchEngine.refuse(Request(engine="torch", device=CpuDevice(), precision="fp32"))


@pytest.mark.parametrize(("network", "native"), [("reference", True), ("fast", False)])
def test_bf16_without_avx512_is_refused_only_where_ours_does_not_run(monkeypatch, network, native):
    monkeypatch.setattr(onednn, "computes", lambda name: False)
    monkeypatch.setattr(build, "status", lambda: ("native" if native else "fallback", "here"))
    [reason] = TorchEngine.refuse(Request(engine="torch", device=CpuDevice(), precision="bf16", network=network))
    assert "needs a CPU with AVX-512, without it PyTorch takes hours per volume; use PRECISION=fp32" in reason
    monkeypatch.setattr(build, "status", lambda: ("native", "here"))
    assert not TorchEngine.refuse(Request(engine="torch", device=CpuDevice(), precision="bf16"))


def test_int8_needs_amx_and_volumes_to_calibrate_with(monkeypatch):
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset({"avx512bw"}))
    reasons = TorchEngine.refuse(Request(engine="torch", device=CpuDevice(), precision="int8"))
    assert "needs a CPU with AMX" in reasons[0] and "volumes to calibrate with" in reasons[1]
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset({"amx_int8"}))
    request = Request(engine="torch", device=CpuDevice(), precision="int8", calibration=lambda: iter(()))
    monkeypatch.setattr(build, "status", lambda: ("native", "here"))
    monkeypatch.setattr(build, "amx", lambda: True)
    assert not TorchEngine.refuse(request)
    monkeypatch.setattr(build, "amx", lambda: False)
    assert "with AMX: they were built without AMX, or the system" in TorchEngine.refuse(request)[0]
    monkeypatch.setattr(build, "status", lambda: ("fallback", "no C++ compiler (install g++)"))
    assert "with AMX: no C++ compiler (install g++); use ENGINE=openvino" in TorchEngine.refuse(request)[0]
    gpu = SimpleNamespace(
        kind="cuda", is_host=False, platform=lambda: "CUDA", properties=lambda: SimpleNamespace(architecture="sm_80")
    )
    [reason] = TorchEngine.refuse(dataclasses.replace(request, device=gpu))
    assert "written for sm_90, this GPU is sm_80; use PRECISION=fp16" in reason


@pytest.mark.skipif(not build.available(), reason=build.status()[1])
@pytest.mark.parametrize("network", ["fast", "reference"])
def test_results_say_who_staged_the_volumes(narrow_reference, network, monkeypatch):
    engine = engine_for(narrow_reference, network=network)
    engine.compare(VOLUME)
    assert engine.effective().details["staging"] == "one pass of ours"
    monkeypatch.setattr(build, "loaded", lambda: False)
    assert engine.effective().details["staging"] == "PyTorch's copy"


@pytest.mark.skipif(not build.available(), reason=build.status()[1])
@pytest.mark.parametrize("jit", ["none", "trace"])
def test_results_say_that_our_operators_ran(narrow_reference, jit):
    engine = engine_for(narrow_reference, jit=jit)
    engine.compare(VOLUME)
    effective = engine.effective()
    assert effective.details["operators"].startswith("native") and effective.network == "fast"
    assert not engine.warnings


def test_results_and_a_warning_say_why_our_operators_did_not(narrow_reference, monkeypatch):
    monkeypatch.setattr(build, "status", lambda: ("fallback", "no C++ compiler (install g++)"))
    engine = engine_for(narrow_reference)
    engine.compare(VOLUME)
    effective = engine.effective()
    assert effective.details["operators"] == "fallback: no C++ compiler (install g++)"
    assert (effective.network, effective.details["class"]) == ("fast", "InferenceUNet")
    [(name, text)] = engine.warnings
    assert name == "fallback-operators" and "install g++" in text
