"""The check against fp32 tells a right network from a wrong one."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from marks import HAS_BF16

from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.errors import MismatchError
from unet3d.measure import against_fp32


@pytest.fixture(params=["reference", "fast"])
def engine_of(request):
    """An engine in each form of the network, with a module's weights."""

    def load(reference):
        precision = "bf16" if HAS_BF16 else "fp32"
        made = TorchEngine(Request("torch", CpuDevice(), precision, jit="none", network=request.param))
        made.load(reference)
        return made

    return load


def test_equal_logits_agree_wholly():
    logits = np.random.default_rng(0).standard_normal((1, 4, 2, 2, 2)).astype(np.float32)
    agreement = against_fp32.compare(logits, logits, "fp32")
    assert (agreement.relative_error, agreement.label_agreement, agreement.finite) == (0.0, 1.0, True)


def test_hand_made_difference():
    reference = np.array([3.0, 4.0], dtype=np.float32).reshape(1, 2, 1, 1, 1)
    agreement = against_fp32.compare(reference[:, ::-1], reference, "fp32")
    assert agreement.relative_error == pytest.approx(np.sqrt(2) / 5)
    assert agreement.label_agreement == 0


def test_right_network_passes(engine_of, narrow_reference):
    agreement = against_fp32.check(engine_of(narrow_reference), narrow_reference, seed=0)
    assert 0 < agreement.relative_error < 0.1
    assert agreement.label_agreement > 0.9


def test_wrong_weights_stop_the_run(engine_of, narrow_reference):
    wrong = deepcopy(narrow_reference)
    with torch.no_grad():
        next(module for module in wrong.modules() if isinstance(module, torch.nn.Conv3d)).weight.neg_()
    with pytest.raises(MismatchError, match="differs from fp32 by .*nothing was timed"):
        against_fp32.check(engine_of(wrong), narrow_reference, seed=0)


def test_nan_stops_the_run(engine_of, narrow_reference):
    wrong = deepcopy(narrow_reference)
    with torch.no_grad():
        wrong.seg_outputs[-1].weight.fill_(float("nan"))
    with pytest.raises(MismatchError, match="NaN or Inf"):
        against_fp32.check(engine_of(wrong), narrow_reference, seed=0)
