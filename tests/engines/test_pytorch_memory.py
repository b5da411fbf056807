"""What memory the torch engine holds while it is measured, and after."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from unet3d.devices import host
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.network.cpu_ops import build, ops

ROOT = Path(__file__).parents[2]
EXTENTS = (64, 64, 96)
MIB = 2**20
needs_operators = pytest.mark.skipif(not build.available(), reason=build.status()[1])


@pytest.fixture
def engine(narrow_reference):
    if build.available():
        ops.release_kept()
    made = TorchEngine(Request("torch", CpuDevice(), "fp32", jit="trace", shape=(1, 4, *EXTENTS)))
    made.load(narrow_reference)
    yield made
    made.close()


def noise(*extents):
    return np.random.default_rng(0).standard_normal((1, 4, *extents), dtype=np.float32)


@needs_operators
def test_nothing_of_the_small_volume_that_was_compared_stays(engine):
    engine.compare(noise(64, 64, 64))
    assert ops.release_kept() == 0


@needs_operators
def test_buffers_stay_for_the_next_call_and_go_when_the_engine_is_closed(engine, monkeypatch):
    engine.compare(noise(*EXTENTS))
    given_back = []
    monkeypatch.setattr(engine._form, "release", lambda: given_back.append(ops.release_kept()))
    engine.infer(engine.stage(noise(*EXTENTS)))
    assert not given_back
    engine.close()
    assert given_back[0] >= 3 * torch.empty(1, 32, *EXTENTS).nbytes and ops.release_kept() == 0


def test_logits_are_made_without_a_second_volume_of_them(engine):
    output = torch.randn(1, 4, 128, 128, 128).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    host.reset_peak_memory()
    before = host.peak_memory()
    if before > psutil.Process().memory_info().rss + 8 * MIB:
        pytest.skip("the kernel does not let the peak be reset")
    logits = engine.logits(output)
    assert logits.nbytes == 32 * MIB and host.peak_memory() - before < 40 * MIB
    assert logits.flags.c_contiguous and (logits == output.float().numpy()).all()


@pytest.mark.parametrize(("jit", "imported"), [("trace", False), ("none", False), ("compile", True)])
def test_a_run_that_compiles_nothing_does_without_the_memory_of_torch_compile(jit, imported):
    """Its modules take 150 MiB."""
    code = f"""
import sys
import numpy as np
from unet3d.brats import weights
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.network import reference

TorchEngine.begin()
loaded = weights.random_weights(base_features=8, max_features=16)
engine = TorchEngine(Request("torch", CpuDevice(), "fp32", jit={jit!r}))
engine.load(reference.build(loaded.plans, loaded.state_dict))
engine.compare(np.zeros((1, 4, 64, 64, 64), dtype=np.float32))
print(engine.effective().jit, any(name in sys.modules for name in ("torch._dynamo", "torch._inductor.config", "triton")))
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [jit, str(imported)]
