"""Which operator a GPU's kernels belong to: made-up events of PyTorch's profiler, and a profile of real ones on a GPU."""

import warnings
from statistics import median
from time import perf_counter

import numpy as np
import pytest
import torch
from made_events import MadeUpGpu
from marks import needs_cuda

from unet3d.devices import registry as devices
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch import kernels, operators
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.engines.pytorch.kernels import MARK, Event, Kernel
from unet3d.engines.pytorch.layers import Call
from unet3d.measure import profile
from unet3d.network import flops


def on_host(name, start, duration, number=0):
    return Event(name, False, start, duration, number, 0)


def on_gpu(name, start, number=0, operator=0, duration=1000):
    return Event(name, True, start, duration, number, operator)


def test_kernels_belong_to_the_operator_that_launched_them():
    seen = [
        on_host(f"{MARK}0", 100, 50),
        on_host("unet3d::conv_first", 105, 40, number=1),
        # The kernel's number is that of the operator of another kind of number: they are counted apart.
        on_host("cuLaunchKernelEx", 110, 2, number=7),
        on_host("cuLaunchKernelEx", 115, 2, number=1),
        on_host(f"{MARK}1", 160, 50),
        on_host("aten::convolution", 161, 40, number=2),
        on_host("aten::cudnn_convolution", 165, 30, number=3),
        on_host("cudaLaunchKernel", 170, 2, number=9),
        on_host(f"{MARK}2", 220, 10),
        on_host("cudaLaunchKernel", 225, 2, number=12),
        # Long after the host has gone on, and not in the order in which they are told.
        on_gpu("fold", 3000, number=1, operator=1),
        on_gpu("first", 1000, number=7, operator=1, duration=2_000_000),
        on_gpu("cudnn", 5000, number=9, operator=3),
        # Linked to no operator, but to a launch.
        on_gpu("own", 7000, number=12),
        on_gpu("stray", 9000, number=99),
        on_gpu(f"{MARK}1", 1000),
    ]
    assert kernels.launched(seen) == [
        Kernel("first", 2.0, 0),
        Kernel("fold", 0.001, 0),
        Kernel("cudnn", 0.001, 1),
        Kernel("own", 0.001, 2),
        Kernel("stray", 0.001, None),
    ]


def made(*named):
    return [Kernel(name, 1.0, call) for name, call in named]


NAMED = made(("Memcpy HtoD", 0), ("first", 1), ("fold", 1), ("Memset", 2), ("gemm", 2), ("gemm", 2), ("apply", 3))


def replay(*names):
    return [Kernel(name, 2.0) for name in names]


@pytest.mark.parametrize(
    ("names", "calls"),
    [
        (["Memcpy HtoD", "first", "fold", "Memset", "gemm", "gemm", "apply"], [None, 1, 1, 2, 2, 2, 3]),
        # Volumes that are on the device are copied to the graph's place; a stream's output is copied out of it.
        (["copy", "first", "fold", "Memset", "gemm", "gemm", "apply", "copy"], [None, 1, 1, 2, 2, 2, 3, None]),
        # A graph may set memory by a kernel of another kind of its own, or in other places.
        (["first", "fold", "gemm", "Memset", "gemm", "apply"], [1, 1, 2, 2, 2, 3]),
        (["first", "fold", "gemm", "gemm", "Memset", "apply"], [1, 1, 2, 2, None, 3]),
    ],
)
def test_a_replayed_graphs_kernels_are_those_launched_one_by_one(names, calls):
    ran, wrong = kernels.matched(replay(*names), NAMED)
    assert not wrong
    assert [kernel.call for kernel in ran] == calls
    assert [kernel.name for kernel in ran] == names and {kernel.ms for kernel in ran} == {2.0}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["first", "fold", "gemm", "other", "apply"], "number 4 is other, launched by itself gemm"),
        (["first", "fold", "gemm", "apply"], "the call's 4 kernels are not the 5"),
        (["first", "gemm", "fold", "gemm", "apply"], "number 2 is gemm, launched by itself fold"),
    ],
)
def test_other_kernels_are_told_and_not_guessed(names, told):
    ran, wrong = kernels.matched(replay(*names), NAMED)
    assert told in wrong
    assert [kernel.call for kernel in ran] == [None] * len(names)


def call(layer, *products, moved=0):
    return Call("unet3d::conv", layer, products, [[1, 4, 8, 8, 8]], 0, moved, 0.0)


def test_kernels_share_their_operators_flop_and_bytes_by_time():
    calls = [
        call("input"),
        call("encoder.0.0", "encoder.0.0", moved=400),
        call("encoder.0.0", moved=60),
        call("decoder.0.1+head", "decoder.0.1", "head", moved=8),
    ]
    ran = [
        Kernel("Memcpy HtoD", 5.0, None),
        Kernel("first", 3.0, 1),
        Kernel("fold", 1.0, 1),
        Kernel("apply", 2.0, 2),
        Kernel("head", 1.0, 3),
        Kernel("clone", 1.0, None),
    ]
    rows = operators.rows_of_kernels(ran, calls, {"encoder.0.0": 1000, "decoder.0.1": 500, "head": 10})
    assert [(row.layer, row.kernel, row.flop, row.bytes) for row in rows] == [
        ("input", "Memcpy HtoD", 0, 0),
        ("encoder.0.0", "first", 750, 300),
        ("encoder.0.0", "fold", 250, 100),
        ("encoder.0.0", "apply", 0, 60),
        ("decoder.0.1+head", "head", 510, 8),
        ("output", "clone", 0, 0),
    ]


def test_operators_that_compute_one_convolution_share_its_flop():
    calls = [call("encoder.0.0", "encoder.0.0"), call("encoder.0.0", "encoder.0.0"), call("encoder.0.0")]
    ran = [Kernel("half", 3.0, 0), Kernel("half", 1.0, 1), Kernel("norm", 9.0, 2)]
    assert [row.flop for row in operators.rows_of_kernels(ran, calls, {"encoder.0.0": 1000})] == [750, 250, 0]


@pytest.fixture
def engine(narrow_reference):
    engine = TorchEngine(Request("torch", CpuDevice(), "fp32", network="reference", profile=True))
    engine.load(narrow_reference)
    staged = engine.stage(np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32))
    engine.compile(staged)
    return engine, staged


def told(engine, staged, monkeypatch, gpu):
    """The profile of an engine as of one on a GPU."""
    from unet3d.engines.pytorch.layers import Watch

    gpu.stands_in(monkeypatch)
    infer = lambda: engine.infer(staged)  # noqa: E731
    watching = lambda mark: Watch(engine._module, engine._convolutions, staged, mark)  # noqa: E731
    return operators.on_device("cuda", watching, infer, infer, lambda error: False)


def test_a_graphs_kernels_have_their_layers_and_add_up(engine, monkeypatch, narrow_reference):
    told_ = told(*engine, monkeypatch, MadeUpGpu(0.001))
    assert not told_.notes and told_.rest == "gaps between kernels"
    assert (told_.operators[0].kernel, told_.operators[0].layer) == ("Memcpy HtoD", "input")
    convolutions = flops.convolutions(narrow_reference)
    assert sum(row.flop for row in told_.operators) == flops.flops(narrow_reference, (4, 64, 32, 32))
    assert list(dict.fromkeys(row.layer for row in told_.operators if row.flop)) == [conv.layer for conv in convolutions]
    assert all(row.layer for row in told_.operators)
    # 0.001 ms a kernel is a small part of a call on this CPU; what is left over is the gaps.
    busy = sum(row.ms for row in told_.operators)
    assert busy == pytest.approx(0.001 * len(told_.operators)) and busy < told_.ms


def test_a_graph_of_other_kernels_is_said(engine, monkeypatch):
    told_ = told(*engine, monkeypatch, MadeUpGpu(0.001, lambda names: names[:-1]))
    assert len(told_.notes) == 1 and "their layers are not known" in told_.notes[0]
    assert {(row.layer, row.flop) for row in told_.operators} == {(None, 0)}
    assert all(row.ms for row in told_.operators)


def test_kernels_that_take_longer_than_the_call_are_said(engine, monkeypatch):
    told_ = told(*engine, monkeypatch, MadeUpGpu(1e6))
    assert len(told_.notes) == 1 and "some ran beside each other" in told_.notes[0]


def test_a_profiler_that_sees_no_kernels_is_said(engine, monkeypatch):
    told_ = told(*engine, monkeypatch, MadeUpGpu(0.001, sees=False))
    assert told_.operators == [] and "saw no kernels" in told_.notes[0]


def test_the_profiler_itself_says_nothing(engine, monkeypatch, capfd, recwarn):
    def as_in_some_releases(self):
        warnings.warn("Warning: Profiler clears events at the end of each cycle.", stacklevel=2)

    monkeypatch.setattr(torch.profiler.profile, "prepare_trace", as_in_some_releases)
    engine, staged = engine
    assert engine.operators(staged).operators
    with operators.profiler.recording() as recorded:
        torch.ones(3).sum()
    assert "aten::sum" in {event.name for event in kernels.events(recorded)}
    engine.compare(np.zeros((1, 4, 64, 32, 32), dtype=np.float32))
    assert engine.effective().precision == "fp32"
    assert not [str(warning.message) for warning in recwarn if "rofiler" in str(warning.message)]
    assert "rofiler" not in "".join(capfd.readouterr())


@needs_cuda
@pytest.mark.parametrize("jit", ["trace", "none", "compile"])
@pytest.mark.parametrize("input_on_device", [False, True])
def test_rows_of_a_gpu_are_its_layers_and_add_up_to_the_latency(jit, input_on_device):
    from unet3d.brats import weights
    from unet3d.network import reference

    loaded = weights.random_weights()
    network, shape = reference.build(loaded.plans, loaded.state_dict), (1, 4, 128, 128, 128)
    request = Request(
        "torch",
        devices.open_device("cuda"),
        "fp16",
        jit=jit,
        amp=False,
        shape=shape,
        profile=True,
        input_on_device=input_on_device,
    )
    engine = TorchEngine(request)
    engine.load(network)
    staged = engine.stage(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
    engine.compile(staged)
    assert not engine.warnings  # a capture that failed would be no graph

    def latency():
        start = perf_counter()
        engine.infer(staged)
        return 1e3 * (perf_counter() - start)

    for _ in range(10):
        latency()
    # Without a graph a call is as fast as the host launches, which other work on its cores changes meanwhile.
    latencies = [median(latency() for _ in range(20))]
    layers, told_ = profile.measure(engine, staged)
    latencies.append(median(latency() for _ in range(20)))
    engine.close()
    assert told_.notes == ()
    assert 0.95 * min(latencies) < sum(layer.ms for layer in layers) < 1.05 * max(latencies)
    *ran, gaps = layers
    assert gaps.name == "gaps between kernels"
    if jit != "none":
        assert gaps.share_of_time < 0.5
    assert all(layer.layer and layer.kernel and layer.ms > 0 for layer in ran)
    expected = [conv.layer for conv in flops.convolutions(network)]
    assert list(dict.fromkeys(layer.layer for layer in ran if layer.flop)) == expected
    assert sum(layer.flop for layer in ran) == pytest.approx(flops.flops(network, shape), rel=1e-6)
    # Nothing is faster than the machine; a small kernel's input may come from a cache.
    assert all(layer.share_of_matmul < 1.1 for layer in ran if layer.share_of_matmul and layer.ms > 0.05)
