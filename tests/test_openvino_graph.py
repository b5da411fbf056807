"""The rewritings of the decoder are exact, and what the graph does not compute is refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from unet3d.model import reference
from unet3d.weights.plans import random_plans

pytest.importorskip("openvino", reason="openvino is not installed: pip install -r requirements-openvino.txt")

from unet3d.engines import openvino_graph


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3)])
def test_one_transposed_convolution_equals_two_layers(stride, kernel):
    torch.manual_seed(3)
    up = nn.ConvTranspose3d(5, 6, stride, stride, bias=False).double()
    padding = [extent // 2 for extent in kernel]
    conv = nn.Conv3d(6, 7, kernel, padding=padding, bias=False).double()
    x = torch.randn(2, 5, 4, 3, 5, dtype=torch.float64)
    merged = openvino_graph.merged_kernel(up.weight.detach().numpy(), conv.weight.detach().numpy())
    found = functional.conv_transpose3d(x, torch.from_numpy(merged).double(), stride=stride, padding=padding)
    expected = conv(up(x))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)


def test_no_concatenation_is_left_and_shapes_stay_open():
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    graph = openvino_graph.build(network)
    kinds = [op.get_type_name() for op in graph.get_ops()]
    assert "Concat" not in kinds
    assert kinds.count("MVN") == sum(isinstance(module, nn.InstanceNorm3d) for module in network.modules())
    assert [dimension.is_dynamic for dimension in graph.output(0).get_partial_shape()] == [True, False, True, True, True]


@pytest.mark.parametrize("spoil", [
    lambda network: setattr(network, "convolutional_pooling", False),
    lambda network: setattr(network.conv_blocks_context[0].blocks[0], "instnorm", nn.BatchNorm3d(8)),
    lambda network: setattr(network.conv_blocks_context[0].blocks[0], "instnorm", nn.InstanceNorm3d(8)),
    lambda network: setattr(network.tu[0], "stride", (1, 1, 1)),
])
def test_another_network_is_refused(spoil):
    network = reference.build(random_plans(base_features=8, max_features=32, poolings=3))
    spoil(network)
    with pytest.raises(ValueError, match="only|not"):
        openvino_graph.build(network)
