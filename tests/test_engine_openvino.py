"""The OpenVINO engine against nnU-Net's own module in fp32, on small volumes and a narrow network."""

import numpy as np
import pytest
import torch

from unet3d.devices.base import open_device
from unet3d.engines import create
from unet3d.engines.base import Request
from unet3d.model import reference
from unet3d.weights.plans import random_plans

ov = pytest.importorskip("openvino", reason="openvino is not installed: pip install -r requirements-openvino.txt")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(7)
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "instnorm" in name or name.endswith("conv.bias"):
                value.uniform_(0.5, 1.5) if "instnorm.weight" in name else value.uniform_(-0.5, 0.5)
    return network


@pytest.fixture
def ask(tmp_path):
    def ask(**settings):
        given = {"engine": "openvino", "device": open_device("cpu"), "precision": "fp32", "threads": 2,
                 "cache_dir": tmp_path}
        return Request(**(given | settings))

    return ask


def volumes(batch=1, seed=0, shape=(32, 40, 24)):
    return np.random.default_rng(seed).standard_normal((batch, 4, *shape), dtype=np.float32)


def truth(network, x):
    with torch.inference_mode():
        return network(torch.from_numpy(x)).numpy()


def difference(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("form", ["fast", "reference"])
@pytest.mark.parametrize("batch", [1, 2])
def test_fp32_equals_nnunet(network, ask, form, batch):
    engine = create(ask(network=form))
    engine.load(network)
    x = volumes(batch)
    assert difference(engine.compare(x), truth(network, x)) < 1e-5
    assert engine.effective().precision == "fp32"
    assert engine.effective().layout == "channels_last_3d"
