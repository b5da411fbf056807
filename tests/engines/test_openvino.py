"""The OpenVINO engine against nnU-Net's own module in fp32, on small volumes and a narrow network."""

import threading
from collections import Counter
from types import SimpleNamespace

import making
import numpy as np
import pytest
import torch

from unet3d.devices import host
from unet3d.devices.registry import open_device
from unet3d.engines.base import Request
from unet3d.engines.registry import create
from unet3d.errors import MismatchError, UserErrors
from unet3d.measure import prepare
from unet3d.network import reference
from unet3d.network.plans import random_plans

ov = pytest.importorskip("openvino", reason="openvino is not installed: pip install -r requirements-openvino.txt")

needs_bf16 = pytest.mark.skipif(host.bf16_instructions() is None, reason="this CPU has no bf16 instructions")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(7)
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "instnorm" in name or name.endswith("conv.bias"):
                value.uniform_(0.5, 1.5) if "instnorm.weight" in name else value.uniform_(-0.5, 0.5)
    return network


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def ask(cache_dir):
    def ask(**settings):
        given = {"engine": "openvino", "device": open_device("cpu"), "precision": "fp32", "threads": 2, "cache_dir": cache_dir}
        return Request(**(given | settings))

    return ask


def volumes(batch=1, seed=0, shape=(32, 40, 24)):
    return np.random.default_rng(seed).standard_normal((batch, 4, *shape), dtype=np.float32)


def truth(network, x):
    with torch.inference_mode():
        return network(torch.from_numpy(x)).numpy()


def difference(logits, expected):
    return np.abs(logits - expected).max() / np.abs(expected).max()


def relative_error(logits, expected):
    return np.linalg.norm(logits - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("form", ["fast", "reference"])
@pytest.mark.parametrize("batch", [1, 2])
def test_fp32_equals_nnunet(network, ask, form, batch):
    engine = create(ask(network=form))
    engine.load(network)
    x = volumes(batch)
    assert difference(engine.compare(x), truth(network, x)) < 1e-5
    assert engine.effective().precision == "fp32"
    assert engine.effective().layout == "channels_last_3d"


@needs_bf16
@pytest.mark.parametrize("form", ["fast", "reference"])
def test_bf16_agrees_and_is_what_the_convolutions_got(network, ask, form):
    engine = create(ask(network=form, precision="bf16"))
    engine.load(network)
    x = volumes(2)
    logits, expected = engine.compare(x), truth(network, x)
    assert 1e-5 < relative_error(logits, expected) < 0.05
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    effective = engine.effective()
    assert effective.precision == "bf16"
    assert effective.details["inference_precision_hint"] == "<Type: 'bfloat16'>"


@needs_bf16
def test_a_plugin_that_runs_another_precision_is_found_out(network, ask, monkeypatch):
    engine = create(ask(precision="bf16"))
    honest = engine._properties
    monkeypatch.setattr(engine, "_properties", lambda: honest() | {"INFERENCE_PRECISION_HINT": "f32"})
    engine.load(network)
    engine.compare(volumes())

    plan = SimpleNamespace(settings=making.settings_of(precision="bf16", engine="openvino"), device=open_device("cpu"))
    with pytest.raises(MismatchError, match="PRECISION=bf16 was asked for, fp32 ran"):
        prepare.must_match(plan, engine.effective())


def test_each_stream_gets_its_own_volumes_logits(network, ask):
    engine = create(ask(streams=2, shape=(1, 4, 32, 40, 24)))
    engine.load(network)
    engine.compile(engine.stage(volumes()))
    assert engine.effective().details["streams"] == 2
    inputs = [volumes(seed=seed) for seed in range(6)]
    outputs = [None] * len(inputs)

    def serve(stream):
        for index in range(stream, len(inputs), 2):
            outputs[index] = engine.logits(engine.infer(engine.stage(inputs[index])))

    threads = [threading.Thread(target=serve, args=(stream,)) for stream in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, logits in zip(inputs, outputs, strict=True):
        # Another volume's logits would differ by more than 1.
        assert difference(logits, truth(network, x)) < 1e-4


def test_export_is_kept_until_weights_or_form_change(network, ask, tmp_path):
    def load(network, form="fast"):
        engine = create(ask(cache_dir=tmp_path, network=form))
        engine.load(network)
        return engine.load_seconds

    assert "export" in load(network)
    assert set(load(network)) == {"read export"}
    assert "export" in load(network, "reference")
    other = reference.build(random_plans(base_features=8, max_features=32, poolings=3), network.state_dict())
    assert set(load(other)) == {"read export"}
    with torch.no_grad():
        other.seg_outputs[-1].weight[0, 0] += 1
    assert "export" in load(other)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "fp16"}, "PRECISION=fp16 with ENGINE=openvino on CPU is not possible; use fp32, bf16, int8"),
        ({"jit": "trace"}, "JIT=trace with ENGINE=openvino"),
        ({"ipex": True}, "IPEX=yes with ENGINE=openvino"),
        ({"precision": "int8"}, "PRECISION=int8 needs volumes to calibrate with"),
    ],
)
def test_refuses_up_front(ask, settings, reason):
    with pytest.raises(UserErrors, match=reason):
        create(ask(**settings))


def test_refuses_bf16_where_the_cpu_would_emulate_it(ask, monkeypatch):
    monkeypatch.setattr(host, "bf16_instructions", lambda: None)
    with pytest.raises(UserErrors, match="needs a CPU with AMX or AVX512-BF16"):
        create(ask(precision="bf16"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_profile_tells_the_type_that_each_convolution_multiplies_and_no_layer(network, ask, precision):
    if precision == "int8":
        pytest.importorskip("nncf", reason="nncf is not installed: pip install -r requirements-openvino.txt")
    x = volumes()
    engine = create(ask(precision=precision, profile=True, shape=x.shape, calibration=lambda: iter(x)))
    engine.load(network)
    staged = engine.stage(x)
    engine.compile(staged)
    told = engine.operators(staged).operators
    assert {row.layer for row in told} == {None}
    flop = Counter()
    for row in told:
        flop[row.products] += row.flop
    # What is no convolution multiplies nothing that is counted.
    assert flop.pop(None) == 0
    assert flop == engine.executed() and precision in flop


def test_nothing_compiled_is_an_error_not_a_guess(network, ask):
    engine = create(ask())
    engine.load(network)
    with pytest.raises(MismatchError, match="nothing was compiled"):
        engine.effective()
