"""The layer-by-layer profile: FLOP against PyTorch's own counter, rows that are those of the network that ran."""

import importlib
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.devices.cpu import CpuDevice
from unet3d.engines import registry
from unet3d.engines.base import Request
from unet3d.engines.pytorch import witness
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.measure import profile, rates
from unet3d.network import flops
from unet3d.network.cpu_ops import build, ops

RATES = {"fp32": 1.0, "bf16": 4.0, "int8": 8.0}


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch):
    hardware = tuple(Rate(products, tflops, "given") for products, tflops in RATES.items())
    monkeypatch.setattr(rates, "measure", lambda *_: Ceilings("cpu", "fp32", 1, 0.5, 10.0, "given", hardware))


def profiled(reference, precision="fp32", **changes):
    engine = TorchEngine(Request(engine="torch", device=CpuDevice(), precision=precision, profile=True, **changes))
    engine.load(reference)
    staged = engine.stage(np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32))
    engine.compile(staged)
    return engine, profile.measure(engine, staged)[0]


def test_flop_are_those_that_pytorch_counts_in_nnunets_form(narrow_reference):
    _, layers = profiled(narrow_reference, network="reference")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        narrow_reference(torch.zeros(1, 4, 64, 32, 32))
    assert sum(layer.flop for layer in layers) == counter.get_total_flops()


def test_a_trace_leaves_out_the_heads_that_nobody_reads(narrow_reference):
    _, layers = profiled(narrow_reference, network="reference", jit="trace")
    assert sum(layer.flop for layer in layers) == flops.flops(narrow_reference, (4, 64, 32, 32))


def test_rows_are_our_operators_and_add_up(narrow_reference):
    engine, layers = profiled(narrow_reference, network="fast")
    names = [layer.name for layer in layers]
    if build.available():
        assert names.count(ops.HEAD) == 1
        assert names.count(ops.UPSAMPLE) == len(engine._module.upsamplings)
    assert sum(layer.share_of_time for layer in layers) == pytest.approx(1, abs=1e-6)
    convolution = max(layers, key=lambda layer: layer.flop)
    assert convolution.share_of_matmul == pytest.approx(convolution.executed_flop / 1e12 / (convolution.ms / 1e3))
    assert convolution.share_of_copy == pytest.approx(convolution.bytes / 1e10 / (convolution.ms / 1e3))
    executed, direct = (sum(counts) / 1e12 for counts in zip(*((row.executed_flop, row.flop) for row in layers), strict=True))
    assert profile.table(layers)[-1].endswith(f"{executed:.3f} TFLOP executed for {direct:.3f} of direct convolutions")


@pytest.mark.skipif(not build.available(), reason=build.status()[1])
def test_a_layers_share_is_of_the_ceiling_of_its_own_products(narrow_reference, monkeypatch):
    """In bf16 Winograd's layers multiply in fp32: neither their saved products nor bf16's rate may count for them."""
    monkeypatch.setattr(build, "amx", lambda: False)  # tiles have no such layers
    engine, layers = profiled(narrow_reference, "bf16")
    rows = [layer for layer in layers if layer.name.startswith("unet3d_fused")]
    told = engine._module.executed((1, 4, 64, 32, 32))
    assert [(row.products, row.executed_flop) for row in rows] == [(layer.products, layer.flop) for layer in told]
    winograd = [row for row in rows if row.executed_flop < 0.5 * row.flop]
    assert winograd and all(row.products == "fp32" for row in winograd)
    for row in rows:
        assert row.share_of_matmul == pytest.approx(row.executed_flop / 1e12 / (row.ms / 1e3) / RATES[row.products])
    assert sum(engine.executed().values()) == sum(layer.flop for layer in engine._module.executed(engine.request.shape))


def test_a_share_above_its_ceiling_is_explained(narrow_reference):
    _, layers = profiled(narrow_reference)
    assert not any("Copying above 100%" in line for line in profile.table([replace(row, share_of_copy=0.5) for row in layers]))
    assert any("Copying above 100%" in line for line in profile.table([replace(row, share_of_copy=1.5) for row in layers]))


@pytest.mark.parametrize(
    ("device", "whose", "reason"),
    [("cpu", "hardware", "other work slowed"), ("cuda", "library", "the library used for it is slower than what ran")],
)
def test_shares_are_named_by_whose_ceiling_they_are_of(narrow_reference, monkeypatch, device, whose, reason):
    hardware = tuple(Rate(products, tflops, "given") for products, tflops in RATES.items())
    monkeypatch.setattr(rates, "measure", lambda *_: Ceilings(device, "fp32", None, 0.5, 10.0, "given", hardware))
    _, layers = profiled(narrow_reference)
    assert {row.ceiling for row in layers if row.share_of_matmul is not None} == {whose}
    lines = profile.table([replace(row, share_of_matmul=row.ceiling and 1.5, share_of_copy=None) for row in layers])
    text = " ".join(lines)
    assert whose in lines[0].split() and f"the share of the {whose} ceiling" in text
    assert f"{whose.capitalize()} above 100%: {reason}" in text and "Copying above" not in text


@pytest.mark.parametrize(
    ("network", "jit"),
    [("fast", "none"), ("fast", "trace"), ("fast", "compile"), ("reference", "none"), ("reference", "trace")],
)
def test_rows_are_named_by_layer_and_add_up_to_the_call(narrow_reference, monkeypatch, network, jit):
    latencies, infer = [], TorchEngine.infer

    def timed(*arguments):
        start = perf_counter()
        result = infer(*arguments)
        latencies.append(1e3 * (perf_counter() - start))
        return result

    monkeypatch.setattr(TorchEngine, "infer", timed)
    _, layers = profiled(narrow_reference, network=network, jit=jit)
    expected = [conv.layer for conv in flops.convolutions(narrow_reference)]
    assert sum(layer.ms for layer in layers) == pytest.approx(latencies[-1], rel=0.05)
    assert sum(layer.flop for layer in layers) == flops.flops(narrow_reference, (4, 64, 32, 32))
    assert [layer.layer for layer in layers if layer.flop] == expected
    assert profile.table(layers)[0].split()[:2] == ["layer", "operator"]


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "fp32"), ("openvino", "int8"), ("onnxruntime", "fp32")])
def test_other_engines_tell_the_operators_that_they_execute(narrow_reference, tmp_path, engine, precision):
    for package in {"openvino": ("openvino", "nncf"), "onnxruntime": ("onnx", "onnxruntime")}[engine]:
        pytest.importorskip(package)
    volumes = np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32)
    engine = registry.create(
        Request(
            engine,
            CpuDevice(),
            precision,
            network="reference",
            cache_dir=tmp_path,
            profile=True,
            calibration=lambda: iter([volumes[0]]),
        )
    )
    engine.load(narrow_reference)
    staged = engine.stage(volumes)
    engine.compile(staged)
    layers, _ = profile.measure(engine, staged)
    engine.close()
    assert sum(layer.flop for layer in layers) == flops.flops(narrow_reference, (4, 64, 32, 32))
    assert sum(layer.share_of_time for layer in layers) == pytest.approx(1, abs=1e-6)
    convolutions = [layer for layer in layers if layer.flop]
    assert all(layer.executed_flop == layer.flop and layer.products for layer in convolutions)
    assert precision in {layer.products for layer in convolutions}
    assert all(layer.name.startswith(("Conv", "Deconv", "FusedConv")) and layer.ms > 0 for layer in convolutions)
    # The first convolution reads the volume and writes its features, a byte or four each.
    first, size = convolutions[0], {"int8": 1, "fp32": 4}[precision]
    features = narrow_reference.conv_blocks_context[0].output_channels
    assert first.shapes[:2] == [[1, 4, 64, 32, 32], [features, 4, 3, 3, 3]]
    assert first.bytes == pytest.approx(size * ((4 + features) * 64 * 32 * 32 + 27 * 4 * features), rel=0.01)


def test_each_call_has_its_own_times(narrow_reference, tmp_path):
    """OpenVINO gives means over all calls: a first call, slower by far, must not show in a later one's profile."""
    pytest.importorskip("openvino")
    engine = registry.create(Request("openvino", CpuDevice(), "fp32", cache_dir=tmp_path, profile=True))
    engine.load(narrow_reference)
    staged = engine.stage(np.zeros((1, 4, 64, 64, 64), dtype=np.float32))
    engine.compile(staged)
    for _ in range(4):
        told = engine.operators(staged)
        assert 0.3 * told.ms < sum(operator.ms for operator in told.operators) <= 1.05 * told.ms


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"engine": "onnxruntime", "precision": "fp32", "streams": 2}, "STREAMS=2 is not possible"),
        ({"engine": "openvino", "precision": "fp32", "streams": 2}, "STREAMS=2 is not possible"),
    ],
)
def test_an_engine_that_cannot_tell_refuses(asked, says):
    reasons = registry.engine_class(asked["engine"]).refuse(Request(device=CpuDevice(), profile=True, **asked))
    assert any(says in reason for reason in reasons)


def test_flop_of_a_convolution_counted_by_hand():
    shapes, arguments = [[1, 4, 8, 8, 8], [6, 4, 3, 3, 3]], ["", "", [2, 2, 2], [1, 1, 1]]
    assert witness.flop("aten::convolution", shapes, arguments) == 2 * 4**3 * 6 * 4 * 27


def test_flop_of_the_fused_layers_counted_by_hand():
    scale = [1, 32]
    shapes = [[1, 32, 4, 4, 4], scale, scale, [1, 64, 4, 4, 4], scale, scale, [], [9], [], [128], [128], [], []]
    arguments = ["", "", "", "", "", "", 0.01, "", 2, "", "", 1e-5, "a form"]
    assert witness.flop(ops.CONV, shapes, arguments) == 2 * 27 * 96 * 128 * 2**3
    shapes = [[2, 32, 4, 4, 4], scale, scale, [], [8 * 32 * 64]]
    assert witness.flop(ops.UPSAMPLE, shapes, ["", "", "", 0.01, ""]) == 2 * 8 * 32 * 64 * 2 * 4**3
    shapes = [[1, 32, 4, 4, 4], scale, scale, [], [4, 32]]
    assert witness.flop(ops.HEAD, shapes, ["", "", "", 0.01, ""]) == 2 * 4 * 32 * 4**3


def test_packed_weights_of_the_gpus_form_are_not_taken_for_a_convolutions():
    """Operators declare their own FLOP: a transposed convolution's are those of its input's voxels."""
    pytest.importorskip("triton")
    importlib.import_module("unet3d.network.triton_ops.ops")  # registers them
    shapes = [[1, 320, 7, 7, 5], [1, 320], [1, 320], [], [320, 2560], [1, 320, 14, 14, 10], [1, 320], [1, 320]]
    assert witness.flop("unet3d::conv_upsample", shapes, ["", "", "", 0.01]) == 2 * 320 * 320 * 8 * 7 * 7 * 5
