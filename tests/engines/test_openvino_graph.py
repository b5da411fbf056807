"""The rewritings of the decoder are exact, and what the graph does not compute is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from unet3d.measure import full_size
from unet3d.network import reference
from unet3d.network.inference import InferenceUNet
from unet3d.network.plans import random_plans

pytest.importorskip("openvino", reason="openvino is not installed: pip install -r requirements-openvino.txt")

from unet3d.engines.openvino import graph


def test_no_concatenation_is_left_and_shapes_stay_open():
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    model = graph.build(network)
    kinds = [op.get_type_name() for op in model.get_ops()]
    assert "Concat" not in kinds
    # One of a normalisation each, none by the operation that sums all voxels in one stage.
    assert kinds.count("ReduceL2") == sum(isinstance(module, nn.InstanceNorm3d) for module in network.modules())
    assert "MVN" not in kinds
    assert [dimension.is_dynamic for dimension in model.output(0).get_partial_shape()] == [True, False, True, True, True]


@pytest.mark.parametrize("merge", [True, False])
def test_merged_or_not_it_computes_the_same(merge):
    import openvino

    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    compiled = openvino.Core().compile_model(graph.build(network, merge), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = torch.randn(2, 4, 16, 32, 24, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = network(x).numpy()
    np.testing.assert_allclose(compiled(x.numpy())[0], expected, atol=1e-4 * abs(expected).max())


def test_moments_of_a_constant_background_are_right(narrow_reference):
    """Most voxels of a channel are one number: sums of one stage round each addition the same way, and are off by 0.2% here."""
    import openvino

    shape = (96, 96, 64)
    volume = full_size.volume(shape)
    compiled = openvino.Core().compile_model(graph.build(narrow_reference), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.inference_mode():
        expected = InferenceUNet.from_reference(narrow_reference)(torch.from_numpy(volume)).numpy()
    found = compiled(volume)[0]
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda network: setattr(network, "convolutional_pooling", False),
        lambda network: setattr(network.conv_blocks_context[0].blocks[0], "instnorm", nn.BatchNorm3d(8)),
        lambda network: setattr(network.conv_blocks_context[0].blocks[0], "instnorm", nn.InstanceNorm3d(8)),
        lambda network: setattr(network.tu[0], "stride", (1, 1, 1)),
    ],
)
def test_another_network_is_refused(spoil):
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    spoil(network)
    with pytest.raises(ValueError, match="only|not"):
        graph.build(network)
