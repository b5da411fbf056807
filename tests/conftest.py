"""Shared by all tests: one quiet thread setting and a narrow network."""

import os

import pytest

os.environ.setdefault("KINETO_LOG_LEVEL", "99")


@pytest.fixture(scope="session")
def narrow_reference():
    """nnU-Net's own network with 8 base features, at most 32, random weights."""
    from unet3d import weights
    from unet3d.model import reference

    loaded = weights.random_weights(base_features=8, max_features=32)
    return reference.build(loaded.plans, loaded.state_dict)
