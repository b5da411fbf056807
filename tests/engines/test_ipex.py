"""IPEX with torch.compile: by its own backend, in one graph; with a stand-in.

IPEX itself changes torch.jit of the process that imports it: tests/versions/run.sh runs it in processes of its own.
"""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch._inductor.config

from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch import form, witness
from unet3d.engines.pytorch.engine import TorchEngine

NAME = "intel_extension_for_pytorch"
VOLUME = np.random.default_rng(1).standard_normal((1, 4, 64, 32, 32), dtype=np.float32)


@pytest.fixture
def stand_in(monkeypatch):
    """IPEX as far as the engine calls it: packed layers are C++ that torch.compile cannot look into. Gives its graphs."""
    graphs = []

    def optimize(network, dtype, inplace, weights_prepack):
        if weights_prepack:
            for module in network.modules():
                if isinstance(module, torch.nn.Conv3d):
                    module.forward = torch._dynamo.disable(module.forward)
        return network

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    ipex = ModuleType(NAME)
    ipex.__spec__ = SimpleNamespace(name=NAME)
    ipex.optimize, ipex.VERBOSE_ON, ipex.verbose = optimize, 1, lambda level: contextlib.nullcontext()
    monkeypatch.setitem(sys.modules, NAME, ipex)
    registry = torch._dynamo.backends.registry
    registry.list_backends()  # fills the table
    monkeypatch.setitem(registry._COMPILER_FNS, "ipex", backend)
    if hasattr(registry, "_BACKENDS"):
        monkeypatch.setitem(registry._BACKENDS, "ipex", None)
    torch._dynamo.reset()
    with torch._inductor.config.patch(freezing=False):
        yield graphs


def engine_for(reference, **changes):
    made = TorchEngine(Request(**{"engine": "torch", "device": CpuDevice(), "precision": "fp32", "ipex": True, **changes}))
    made.load(reference)
    return made


def agrees(engine, reference, limit):
    logits = engine.compare(VOLUME)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(VOLUME)).numpy()
    assert np.linalg.norm(logits - expected) < limit * np.linalg.norm(expected)


@pytest.mark.parametrize("network", ["fast", "reference"])
def test_compile_goes_through_ipex_in_one_graph(narrow_reference, stand_in, network):
    engine = engine_for(narrow_reference, jit="compile", network=network)
    agrees(engine, narrow_reference, 1e-4)
    ran = engine.effective()
    assert (ran.jit, ran.ipex, ran.details["compile_backend"]) == ("compile", True, "ipex")
    assert len(stand_in) == 1


def test_other_jits_leave_the_packing_to_ipex(narrow_reference, stand_in):
    engine = engine_for(narrow_reference, jit="none")
    agrees(engine, narrow_reference, 1e-4)
    assert engine.effective().jit == "none" and not stand_in
    assert any("forward" in vars(module) for module in engine._module.modules())


def test_on_a_gpu_ipex_has_no_backend_of_its_own(narrow_reference):
    gpu = SimpleNamespace(kind="xpu", is_host=False)
    request = Request(engine="torch", device=gpu, precision="fp16", ipex=True, jit="compile")
    assert form.choose(request, narrow_reference).compile_backend == "inductor"


def test_flop_of_inductors_packed_convolutions_are_those_of_pytorchs():
    """Their arguments stand in another order: padding before stride."""
    ones, halved, none = [1, 1, 1], [2, 2, 2], [0, 0, 0]
    shapes = [[1, 32, 16, 16, 16], [64, 32, 3, 3, 3], [64]]
    theirs = witness.flop("mkldnn::_convolution_pointwise", shapes, [ones, halved, ones, 1, "none"])
    assert theirs == witness.flop("aten::convolution", shapes, [halved, ones, ones, False, none, 1])
    assert theirs == 2 * 27 * 32 * 64 * 8**3
    shapes = [[1, 64, 8, 8, 8], [64, 32, 2, 2, 2], []]
    theirs = witness.flop("mkldnn::_convolution_transpose_pointwise", shapes, [none, none, halved, ones, 1, "none"])
    assert theirs == witness.flop("aten::convolution", shapes, [halved, none, ones, True, none, 1])
