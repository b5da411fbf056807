"""The layer-by-layer profile: FLOP against PyTorch's own counter, rows that are those of the network that ran."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unet3d import ceilings, layer_profile
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.torch_engine import TorchEngine
from unet3d.model import flops


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "measure", lambda *_: ceilings.Ceilings("cpu", "fp32", 1, 1.0, 10.0, "given"))


def profiled(reference, **changes):
    engine = TorchEngine(Request(engine="torch", device=CpuDevice(), precision="fp32", **changes))
    engine.load(reference)
    staged = engine.stage(np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32))
    engine.compile(staged)
    return engine, layer_profile.measure(engine, staged)


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
    if engine._module.native_types:
        assert names.count("unet3d_cpu::norm_act_head") == 1
        assert names.count("unet3d_cpu::conv_transpose") == len(engine._module.upsamplings)
    assert sum(layer.share_of_time for layer in layers) == pytest.approx(1, abs=1e-6)
    convolution = max(layers, key=lambda layer: layer.flop)
    assert convolution.share_of_matmul == pytest.approx(convolution.flop / 1e12 / (convolution.ms / 1e3))
    assert convolution.share_of_copy == pytest.approx(convolution.bytes / 1e10 / (convolution.ms / 1e3))
    assert layer_profile.table(layers)[-1].endswith(f"{sum(layer.flop for layer in layers) / 1e12:.3f} TFLOP")


def test_work_of_a_convolution_counted_by_hand():
    flop, moved = layer_profile.work("unet3d_cpu::conv", [[1, 4, 8, 8, 8], [6, 4, 3, 3, 3]], ["", "", [2, 2, 2], [1, 1, 1]], 2)
    assert flop == 2 * 4**3 * 6 * 4 * 27
    assert moved == 2 * (4 * 8**3 + 6 * 4 * 27 + 6 * 4**3)
