"""CUDA and XPU devices and the torch engine's graphs, on machines without a GPU: the runtime is a stand-in that records."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_events import MadeUpGpu
from made_gpu import FakeRuntime, HostGpu

from unet3d.devices import known_issues
from unet3d.devices import xpu as xpu_module
from unet3d.devices.cuda import CudaDevice
from unet3d.devices.nvml import Nvml
from unet3d.devices.xpu import KernelCounter, XpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch import operators
from unet3d.engines.pytorch.engine import CALLS_BEFORE_CAPTURE, TorchEngine
from unet3d.network import flops


@pytest.fixture(params=[CudaDevice, XpuDevice])
def device(request, monkeypatch):
    runtime = FakeRuntime()
    monkeypatch.setattr(request.param, "runtime", classmethod(lambda cls: runtime))
    made = request.param(0)
    made.recorded = runtime.calls
    return made


def test_memory_that_others_than_pytorch_hold_is_what_is_not_free_and_not_its(device, monkeypatch):
    monkeypatch.setattr(FakeRuntime, "mem_get_info", lambda self, index: (300, 1000), raising=False)
    monkeypatch.setattr(FakeRuntime, "memory_reserved", lambda self, index: 500, raising=False)
    assert device.memory_outside_pytorch() == 200


def test_verbs_reach_the_runtime(device):
    device.synchronize()
    device.reset_peak_memory()
    device.empty_cache()
    assert device.peak_memory() == 7
    assert [call[0] for call in device.recorded] == [
        "set_device",
        "synchronize",
        "reset_peak_memory_stats",
        "empty_cache",
        "max_memory_reserved",
    ]
    assert device.torch_device == torch.device(device.kind, 0) and device.supports_graphs
    assert device.is_out_of_memory(torch.OutOfMemoryError()) and not device.is_out_of_memory(RuntimeError())


def test_properties_are_the_drivers(device):
    told = device.properties()
    assert (told.name, told.memory_bytes) == ("Fake", 2**30)
    assert (told.architecture, told.compute_units) == {"cuda": ("sm_90", 132), "xpu": ("12.60.7", 448)}[device.kind]


def test_cuda_multiplies_in_full_fp32(device):
    if device.kind == "cuda":
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_tiles_of_a_composite_card(monkeypatch):
    runtime = FakeRuntime()
    monkeypatch.setattr(XpuDevice, "runtime", classmethod(lambda cls: runtime))
    assert XpuDevice(0).tiles() == ["0"]
    monkeypatch.setenv("ZE_FLAT_DEVICE_HIERARCHY", "composite")
    assert XpuDevice(0).tiles() == ["0.0", "0.1"]


@pytest.mark.skipif(torch.cuda.is_available() or torch.xpu.is_available(), reason="for a machine without a GPU")
def test_what_is_missing_is_said(monkeypatch, tmp_path):
    assert "PLATFORM=CUDA" in CudaDevice.why_unavailable()
    monkeypatch.setattr(xpu_module, "RENDER_NODES", tmp_path / "none")
    assert "no render node" in XpuDevice.why_unavailable()
    monkeypatch.setattr(xpu_module, "RENDER_NODES", tmp_path)
    (tmp_path / "renderD128").touch()
    monkeypatch.setattr(XpuDevice, "is_available", classmethod(lambda cls: False))
    monkeypatch.setattr(torch.xpu, "_is_compiled", lambda: False)
    assert "built without XPU" in XpuDevice.why_unavailable()
    monkeypatch.setattr(torch.xpu, "_is_compiled", lambda: True)
    assert "compute runtime" in XpuDevice.why_unavailable()
    monkeypatch.setattr(xpu_module.os, "access", lambda *_: False)
    assert "--group-add" in XpuDevice.why_unavailable()


def test_energy_of_the_only_intel_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(xpu_module, "HWMON", tmp_path)
    assert KernelCounter.open() is None
    for number in (0, 1):
        folder = tmp_path / f"hwmon{number}"
        folder.mkdir()
        (folder / "name").write_text("xe\n")
        (folder / "energy1_input").write_text("2500000\n")
        counter = KernelCounter.open()
        # Of two GPUs nobody can say whose the counter is.
        assert (counter is None) == (number == 1)
        if counter:
            assert counter.joules() == 2.5 and counter.clocks_mhz() == {}


def test_nvml_counts_joules_and_reads_clocks():
    class Error(Exception):
        pass

    def clock(handle, domain):
        if domain == 2:
            raise Error
        return 1980

    library = SimpleNamespace(
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 12345,
        nvmlDeviceGetClockInfo=clock,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVMLError=Error,
    )
    source = Nvml(library, "handle")
    assert source.joules() == 12.345 and source.clocks_mhz() == {"core": 1980}


def test_series_of_an_intel_gpu_and_known_defects():
    assert xpu_module.platform_of("Intel(R) Data Center GPU Max 1550") == "Max"
    assert xpu_module.platform_of("Intel(R) Data Center GPU Flex 170") == "Flex"
    assert [name for name, _ in known_issues.find("cuda", "bf16", "2.8.0+cu128", 91002)] == ["conv3d-bf16-wrong"]
    assert not known_issues.find("cuda", "bf16", "2.11.0+cu130", 91900)


def test_defects_of_rocm_builds_are_theirs_alone(monkeypatch):
    # MIOpen's version stands where cuDNN's does.
    assert [name for name, _ in known_issues.find("cuda", "bf16", "2.9.1+rocm6.4", 3004000, rocm=True)] == ["conv3d-bf16-slow"]
    assert not known_issues.find("cuda", "fp16", "2.9.1+rocm6.4", 3004000, rocm=True)
    assert "conv3d-bf16-slow" not in dict(known_issues.find("cuda", "bf16", "2.9.1+cu128", 91002))
    monkeypatch.setattr(CudaDevice, "runtime", classmethod(lambda cls: FakeRuntime()))
    assert "conv3d-bf16-slow" not in dict(CudaDevice(0).warnings("bf16"))
    monkeypatch.setattr(torch.version, "hip", "6.4.43482")
    [(name, text)] = CudaDevice(0).warnings("bf16")
    assert name == "conv3d-bf16-slow" and "issues/167420" in text


VOLUME = np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32)


def engine_for(reference, gpu, **changes):
    """nnU-Net's network in fp32, so that the stand-in needs no Triton."""
    request = Request(engine="torch", device=gpu, precision="fp32", network="reference", shape=(1, 4, 64, 32, 64), **changes)
    engine = TorchEngine(request)
    engine.load(reference)
    return engine


def logits(reference, volume):
    with torch.inference_mode():
        return reference(torch.from_numpy(volume)).numpy()


def test_a_graph_is_recorded_checked_and_replayed_with_new_volumes(narrow_reference):
    gpu = HostGpu()
    engine = engine_for(narrow_reference, gpu, jit="trace")
    np.testing.assert_allclose(engine.compare(VOLUME), logits(narrow_reference, VOLUME), atol=1e-4)
    assert gpu.captures == 1 and not engine._lanes[0].graphs  # the check's graph does not hold memory while timing
    large = np.concatenate([VOLUME, VOLUME[..., ::-1]], axis=-1)
    engine.compile(engine.stage(large))
    assert gpu.captures == 2
    other = np.ascontiguousarray(large[:, ::-1])
    np.testing.assert_allclose(engine.logits(engine.infer(engine.stage(other))), logits(narrow_reference, other), atol=1e-4)
    assert engine._lanes[0].graphs[other.shape].graph.replays == 2
    assert engine.effective().details["graph"] == "FakeGraph" and engine.effective().jit == "trace"


def test_staged_volumes_are_not_the_graphs_own_input(narrow_reference):
    engine = engine_for(narrow_reference, HostGpu(), jit="trace", input_on_device=True)
    staged = engine.stage(VOLUME)
    before = staged.clone()
    engine.compile(staged)
    engine.infer(engine.stage(2 * VOLUME))
    assert torch.equal(staged, before) and CALLS_BEFORE_CAPTURE > 0


def test_every_stream_has_a_graph_and_an_output_of_its_own(narrow_reference, monkeypatch):
    gpu = HostGpu()
    stream = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(FakeRuntime, "Stream", lambda self: stream, raising=False)
    monkeypatch.setattr(FakeRuntime, "stream", lambda self, used: contextlib.nullcontext(), raising=False)
    engine = engine_for(narrow_reference, gpu, jit="trace", streams=2, threads=2)
    staged = engine.stage(VOLUME)
    engine.compile(staged)
    assert gpu.captures == 2
    first = engine.infer(staged)
    kept = first.clone()
    for _ in range(3):
        engine.infer(engine.stage(2 * VOLUME + 1))
    assert torch.equal(first, kept)


def test_a_failed_capture_is_told_not_hidden(narrow_reference):
    gpu = HostGpu()
    gpu.fail = "operation not permitted when stream is capturing"
    engine = engine_for(narrow_reference, gpu, jit="trace")
    np.testing.assert_allclose(engine.compare(VOLUME), logits(narrow_reference, VOLUME), atol=1e-4)
    assert engine.effective().details["graph"] == f"none: the capture failed: {gpu.fail}"
    assert engine.warnings[0][0] == "no-graph"


def test_jit_none_launches_by_itself(narrow_reference):
    gpu = HostGpu()
    engine = engine_for(narrow_reference, gpu, jit="none")
    engine.compare(VOLUME)
    assert gpu.captures == 0 and engine.effective().details["graph"].startswith("none: JIT=none")


@pytest.mark.parametrize("jit", ["trace", "none"])
def test_a_profile_is_of_the_kernels_and_layers_of_what_was_timed(narrow_reference, monkeypatch, jit):
    gpu = MadeUpGpu(0.001)
    gpu.stands_in(monkeypatch)
    monkeypatch.setattr(operators, "CALLS_S", 0.0)
    engine = engine_for(narrow_reference, HostGpu(), jit=jit, profile=True)
    staged = engine.stage(VOLUME)
    engine.compile(staged)
    before = {shape: captured.graph.replays for shape, captured in engine._lanes[0].graphs.items()}
    told = engine.operators(staged)
    assert told.notes == () and told.rest == "gaps between kernels"
    assert sum(row.flop for row in told.operators) == flops.flops(narrow_reference, VOLUME.shape)
    assert all(row.layer and row.kernel for row in told.operators)
    # The first call, those that are timed and one that is profiled are of the graph, the launched ones are not.
    assert [captured.graph.replays - before[shape] for shape, captured in engine._lanes[0].graphs.items()] == (
        [] if jit == "none" else [operators.CALLS + 2]
    )
