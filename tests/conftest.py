"""Shared by all tests: one quiet thread setting and a narrow network."""

import os

import pytest
import torch

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
# Read when Triton is first imported, which PyTorch does in its own time: before any test.
if not (torch.cuda.is_available() or torch.xpu.is_available()):
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def narrow_reference():
    """nnU-Net's own network with 8 base features, at most 32, random weights."""
    from unet3d.brats import weights
    from unet3d.network import reference

    loaded = weights.random_weights(base_features=8, max_features=32)
    return reference.build(loaded.plans, loaded.state_dict)
