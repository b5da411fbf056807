"""ONNX Runtime on a GPU, by a made-up one: what is asked of it, what must end a run, and the order of its calls."""

import gc
import importlib.util
import weakref

import making
import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -r requirements-onnxruntime.txt")
pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-onnxruntime.txt")

from made_onnxruntime import CPU, CUDA, TENSORRT, Gpu, Module

import unet3d
from unet3d.devices import platforms
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.onnxruntime.engine import OnnxRuntimeEngine
from unet3d.engines.registry import create, refuse
from unet3d.engines.ring import DEPTH
from unet3d.errors import ExitCode, MismatchError, UserError, UserErrors
from unet3d.measure import pipeline

SHAPE = (1, 4, 64, 32, 32)
VOLUME = np.random.default_rng(2).standard_normal(SHAPE, dtype=np.float32)


@pytest.fixture
def made(monkeypatch):
    module = Module(Gpu())
    module.stands_in(monkeypatch)
    return module


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Graphs are exported once for all tests here."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def loaded(made, exports, narrow_reference):
    def load(**changes):
        engine = create(asked(made.device, cache_dir=exports, **changes))
        engine.load(narrow_reference)
        return engine

    return load


def asked(device, **changes):
    return Request(**{"engine": "onnxruntime", "device": device, "precision": "fp32", "shape": SHAPE, "threads": 2, **changes})


def expected(reference, volume):
    with torch.inference_mode():
        return reference(torch.from_numpy(volume)).numpy()


def relative(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_logits_are_nnunets_and_the_label_is_the_sessions(made, loaded, narrow_reference, precision, limit):
    engine = loaded(precision=precision)
    found = engine.compare(VOLUME)
    assert found.dtype == np.float32 and relative(found, expected(narrow_reference, VOLUME)) < limit
    effective = engine.effective()
    assert (effective.engine, effective.device, effective.precision) == ("onnxruntime 1.31.1 CUDA", "cuda:0", precision)
    assert (effective.network, effective.layout) == ("reference", "contiguous")
    told = effective.details
    assert told["providers"] == [CUDA, CPU] and list(told["nodes"]) == [CUDA]
    assert told["provider_options"][CUDA] == {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    [session] = made.sessions
    [volume] = session.get_inputs()
    assert volume.type == {"fp32": "tensor(float)", "fp16": "tensor(float16)"}[precision]
    assert volume.shape == list(SHAPE)  # no extent is left open
    assert not session.fallback


def test_tensorrt_is_preferred_and_cuda_takes_what_it_leaves(made, loaded):
    made.left_to = {"LeakyRelu": CUDA}
    engine = loaded(precision="fp16", onnx_provider="tensorrt")
    engine.compare(VOLUME)
    assert engine.effective().engine == "onnxruntime 1.31.1 TensorRT"
    assert set(engine.effective().details["nodes"]) == {TENSORRT, CUDA}
    assert engine.effective().details["layer_types"] == "chosen by TensorRT among fp16 and fp32"
    [session] = made.sessions
    assert list(session.asked) == [TENSORRT, CUDA] and session.asked[TENSORRT]["trt_fp16_enable"] == "True"


@pytest.mark.parametrize(
    ("provider", "left_to", "told"),
    [
        ("cuda", {"ConvTranspose": CPU}, f"{CUDA} was asked for, but it leaves ConvTranspose .* on {CPU}.* and 2 more"),
        ("cuda", {"InstanceNormalization": CPU}, f"leaves InstanceNormalization .* on {CPU}"),
        ("tensorrt", {"Conv": CUDA}, f"{TENSORRT} was asked for, but it leaves Conv .* on {CUDA}"),
    ],
)
def test_a_node_that_fell_back_ends_the_run(made, loaded, provider, left_to, told):
    made.left_to = left_to
    engine = loaded(precision="fp16", onnx_provider=provider)
    with pytest.raises(MismatchError, match=told) as error:
        engine.compare(VOLUME)
    assert error.value.exit_code == ExitCode.MISMATCH and "\n" not in str(error.value)


def test_the_session_for_the_timed_shape_is_looked_at_too(made, loaded):
    engine = loaded()
    engine.compare(VOLUME)
    made.left_to = {"Conv": CPU}
    with pytest.raises(MismatchError, match="leaves Conv"):
        engine.compile(engine.stage(np.concatenate([VOLUME, VOLUME])))


def test_the_real_cpu_provider_is_found_to_compute_fp16_in_fp32(exports, narrow_reference):
    engine = OnnxRuntimeEngine(asked(CpuDevice(), precision="fp16", cache_dir=exports))
    with pytest.raises(MismatchError, match=f"{CPU} changes the data type [0-9]+ times"):
        engine.load(narrow_reference)


def test_tf32_that_stays_on_ends_the_run_in_fp32(made, loaded):
    made.told = {"use_tf32": "1"}
    with pytest.raises(MismatchError, match="use_tf32=1"):
        loaded().compare(VOLUME)


def test_a_provider_that_does_not_load_is_told_with_its_remedy(made, loaded):
    made.broken = [CUDA]
    with pytest.raises(UserError, match=f"could not load its {CUDA}, only {CPU}; .*requirements-onnxruntime-gpu.txt"):
        loaded().compare(VOLUME)


def test_a_call_goes_through_one_queue_and_is_waited_for(made, loaded):
    engine = loaded()
    engine.compile(engine.stage(VOLUME))
    [session] = made.sessions
    queue = int(session.asked[CUDA]["user_compute_stream"])
    staged = engine.stage(VOLUME)
    made.device.log.clear()
    output = engine.infer(staged)
    assert [(where, what) for where, what, _ in made.device.log] == [
        (queue, "upload"),
        (queue, "bind input"),
        (queue, "bind output"),
        (queue, "run"),
        (0, "wait for the stream"),
    ]
    kept = output.clone()
    engine.infer(engine.stage(2 * VOLUME))
    assert torch.equal(output, kept)
    assert np.array_equal(engine.labels(output), engine.logits(output).argmax(axis=1))


@pytest.mark.parametrize("input_on_device", [False, True])
def test_overlapped_calls_give_the_labels_of_calls_in_turn(loaded, input_on_device):
    generator = np.random.default_rng(3)
    given = [generator.standard_normal(SHAPE, dtype=np.float32) for _ in range(DEPTH + 2)]
    engine = loaded(input_on_device=input_on_device)
    engine.compile(engine.stage(given[0]))
    assert engine.depth == DEPTH
    found, latencies = [], []

    def hand_on(index, sample, labels):
        found.append(labels.copy())
        latencies.append(sample.latency)

    pipeline.run(engine, len(given), given.__getitem__, hand_on)
    right = [engine.labels(engine.infer(engine.stage(volume))) for volume in given]
    assert all(np.array_equal(one, other) for one, other in zip(found, right, strict=True))
    assert len(latencies) == len(given) and min(latencies) > 0


def test_streams_have_sessions_and_queues_of_their_own(made, loaded):
    engine = loaded(streams=2)
    engine.compile(engine.stage(VOLUME))
    assert engine.depth == 1
    assert len({session.asked[CUDA]["user_compute_stream"] for session in made.sessions}) == len(made.sessions) == 2


def test_memory_is_told_and_given_back(made, loaded):
    made.device.taken = 100
    engine = loaded()
    engine.compare(VOLUME)
    made.device.taken = 350
    assert engine.own_device_memory() == 250
    engine.compile(engine.stage(np.concatenate([VOLUME, VOLUME])))
    first, second = (weakref.ref(session) for session in made.sessions)
    made.sessions.clear()
    gc.collect()
    assert first() is None and second() is not None  # that of the comparison holds nothing while timing
    engine.close()
    gc.collect()
    assert second() is None


class Fail(Exception):
    """As ONNX Runtime's own: without a base but Exception."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (Fail("bfc_arena.cc Failed to allocate memory for requested buffer of size 9"), torch.OutOfMemoryError, "of size 9"),
        (Fail("Conv:\ncuDNN is not available."), UserError, "cannot run on this GPU: .*cuDNN is not available.*ENGINE=torch"),
        (KeyError("ours"), KeyError, "ours"),
    ],
)
def test_errors_of_a_call_are_memory_the_machines_or_ours(made, loaded, error, kind, told):
    engine = loaded()
    made.error = error
    with pytest.raises(kind, match=told) as raised:
        engine.compare(VOLUME)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden": ["onnxruntime"]}, "onnxruntime-gpu is not installed; pip install -r requirements-onnxruntime-gpu.txt"),
        (
            {"available": [CPU], "distributions": ["onnxruntime"]},
            "onnxruntime-gpu is not installed, this onnxruntime is for CPUs; pip uninstall -y onnxruntime && "
            "pip install -r requirements-onnxruntime-gpu.txt",
        ),
        (
            {"distributions": ["onnxruntime", "onnxruntime-gpu"]},
            "onnxruntime and onnxruntime-gpu are both installed, each over the other's files; "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install -r requirements-onnxruntime-gpu.txt",
        ),
        ({"cuda_version": "12.8"}, "onnxruntime-gpu is built for CUDA 12.8 and torch for 13.0; install a torch for CUDA 12"),
        (
            {"hidden": ["tensorrt"], "onnx_provider": "tensorrt", "precision": "fp16"},
            "tensorrt is not installed; pip install -r",
        ),
        ({"available": [CUDA, CPU], "onnx_provider": "tensorrt", "precision": "fp16"}, "is built without it, it has CUDA"),
        ({"onnx_provider": "tensorrt"}, "would multiply in TF32.*; set NVIDIA_TF32_OVERRIDE=0, or use PRECISION=fp16"),
        ({"profile": True}, "PROFILE=yes with ENGINE=onnxruntime is not possible on a GPU"),
        ({"precision": "bf16"}, "it has no bf16 for all of this network's layers; .* on an NVIDIA GPU PRECISION=fp16"),
    ],
)
def test_what_is_missing_is_one_line_with_its_remedy(made, monkeypatch, changes, told):
    if "distributions" in changes:
        made.stands_in(monkeypatch, changes["distributions"])
    find = importlib.util.find_spec
    hidden = changes.get("hidden", ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    made.available = changes.get("available", made.available)
    made.cuda_version = changes.get("cuda_version", made.cuda_version)
    given = {key: changes[key] for key in ("onnx_provider", "precision", "profile") if key in changes}
    with pytest.raises(UserErrors, match=told) as error:
        create(asked(made.device, **given))
    assert len(error.value.messages) == 1


def test_nothing_is_missing_where_all_is_there(made, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    for provider in ("cuda", "tensorrt"):
        for precision in ("fp32", "fp16"):
            assert refuse(asked(made.device, onnx_provider=provider, precision=precision)) == []


def test_a_whole_run_tells_the_provider_and_the_memory_beside_pytorch(made, monkeypatch):
    monkeypatch.setattr(platforms, "select", lambda platform: (made.device, "CUDA", "made up"))
    monkeypatch.setattr(Gpu, "peak_memory", lambda self: 100)
    monkeypatch.setattr(Gpu, "memory_outside_pytorch", lambda self: 2**20 * len(made.sessions))
    settings = {"platform": "CUDA", "precision": "fp32", "weights": "sample", "volume_shape": (64, 32, 32), "telemetry": False}
    document = unet3d.run(engine="onnxruntime", num_iterations=3, warm_up=1, **settings).document
    assert document["complete"] and len(document["samples"]["latency_ms"]) == 3
    assert document["effective"]["engine"] == "onnxruntime 1.31.1 CUDA"
    assert document["settings"]["requested"]["onnx_provider"] == "cuda" and document["check"]["relative_error"] < 1e-4
    assert document["memory"]["peak_device_bytes"] == 100 + 2 * 2**20  # PyTorch's, and a session for each shape
    made.left_to = {"Conv": CPU}
    with pytest.raises(MismatchError, match="leaves Conv"):
        unet3d.run(engine="onnxruntime", num_iterations=3, warm_up=1, **settings)


def test_on_a_cpu_fp16_is_refused_and_no_provider_can_be_chosen():
    assert any("not possible on a CPU" in reason for reason in refuse(asked(CpuDevice(), precision="fp16")))
    assert making.settings_of(engine="onnxruntime").onnx_provider is None
    with pytest.raises(UserErrors, match="ONNX_PROVIDER=tensorrt with PLATFORM=CPU is not possible"):
        making.asked_of(engine="onnxruntime", onnx_provider="tensorrt", platform="CPU")


def test_on_a_gpu_fp16_and_cuda_are_the_default(made, monkeypatch):
    monkeypatch.setattr(platforms, "select", lambda platform: (made.device, "CUDA", "made up"))
    settings = making.settings_of(engine="onnxruntime", platform="CUDA")
    assert (settings.precision, settings.onnx_provider) == ("fp16", "cuda")
    assert making.settings_of(engine="onnxruntime", platform="CUDA", onnx_provider="TensorRT").onnx_provider == "tensorrt"
    assert making.settings_of(engine="torch", platform="CUDA").onnx_provider is None
