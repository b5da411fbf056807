"""The inference form of the network against nnU-Net's own Generic_UNet: same weights, same input, same output."""

import contextlib
import warnings
from copy import deepcopy

import pytest
import torch
from marks import HAS_BF16, needs_bf16, needs_fp16
from torch import nn

from unet3d.network.inference import InferenceUNet, instance_norm


@pytest.fixture(scope="module")
def reference():
    """A narrow Generic_UNet of the benchmark's architecture, with norm parameters that are not 1 and 0."""
    from nnunet.network_architecture.generic_UNet import Generic_UNet
    from nnunet.network_architecture.initialization import InitWeights_He

    torch.manual_seed(0)
    network = Generic_UNet(
        4,
        8,
        4,
        5,
        2,
        2,
        nn.Conv3d,
        nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True},
        nn.Dropout3d,
        {"p": 0, "inplace": True},
        nn.LeakyReLU,
        {"negative_slope": 1e-2, "inplace": True},
        True,
        False,
        lambda x: x,
        InitWeights_He(1e-2),
        [[2, 2, 2]] * 5,
        [[3, 3, 3]] * 6,
        False,
        True,
        True,
        max_num_features=40,
    )
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    network.do_ds = False
    return network.eval()


@pytest.fixture(scope="module")
def fused(reference):
    return InferenceUNet.from_reference(reference)


def volume(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(output, expected):
    return ((output.double() - expected.double()).norm() / expected.double().norm()).item()


def trace(network, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated; users' commands rely on it
        return torch.jit.trace(network, x, check_trace=False)


@pytest.mark.parametrize("shape", [(1, 4, 64, 64, 64), (1, 4, 32, 96, 64), (2, 4, 64, 32, 64), (3, 4, 64, 64, 32)])
@torch.inference_mode()
def test_fp32_equals_reference(reference, fused, shape):
    x = volume(*shape)
    output = fused(x)
    assert output.shape == x.shape and output.dtype == torch.float32
    assert relative_error(output, reference(x)) < 1e-5


@needs_bf16
@torch.inference_mode()
def test_layout_is_kept_through_every_layer(reference):
    fused = InferenceUNet.from_reference(reference)
    layouts = []
    hooks = [
        m.register_forward_hook(lambda _, __, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last_3d)))
        for m in fused.modules()
        if not list(m.children())
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused(volume(1, 4, 64, 64, 64))
    for hook in hooks:
        hook.remove()
    assert len(layouts) > 20 and all(layouts)


@pytest.mark.parametrize("samples", [1, 2])
@torch.inference_mode()
def test_norm_is_instance_norm_even_far_from_zero_mean(samples):
    x = volume(samples, 16, 8, 8, 8) * torch.linspace(0.1, 3, samples * 16).view(samples, 16, 1, 1, 1) + 30
    x = x.contiguous(memory_format=torch.channels_last_3d)
    weight, bias = volume(16), volume(16, seed=2)
    expected = nn.functional.instance_norm(x.double(), weight=weight.double(), bias=bias.double())
    output = instance_norm(x.clone(memory_format=torch.preserve_format), weight, bias, 1e-5)
    assert relative_error(output, expected) < 1e-5


@pytest.mark.parametrize(
    "dtype, amp",
    [
        pytest.param(torch.bfloat16, True, marks=needs_bf16),
        pytest.param(torch.bfloat16, False, marks=needs_bf16),
        pytest.param(torch.float16, False, marks=needs_fp16),
    ],
)
@torch.inference_mode()
def test_half_precision_is_as_close_to_fp32_as_the_reference_is(reference, fused, dtype, amp):
    x = volume(1, 4, 32, 32, 64)
    exact = reference(x)

    def error(network):
        if amp:
            with torch.autocast("cpu", dtype=dtype):
                return relative_error(network(x), exact)
        return relative_error(deepcopy(network).to(dtype)(x.to(dtype)), exact)

    assert error(fused) < 1.2 * error(reference)


@pytest.mark.parametrize("amp", [pytest.param(True, marks=needs_bf16), False])
@torch.inference_mode()
def test_trace_is_right_for_other_shapes_and_batch_sizes(fused, amp):
    context = torch.autocast("cpu", dtype=torch.bfloat16) if amp else contextlib.nullcontext()
    with context:
        traced = trace(fused, volume(1, 4, 32, 32, 64))
        for shape in ((1, 4, 64, 32, 32), (2, 4, 32, 64, 32)):
            x = volume(*shape, seed=3)
            assert relative_error(traced(x), fused(x)) < (1e-2 if amp else 1e-5)


@pytest.mark.parametrize("samples", [1, 2])
@torch.inference_mode()
def test_compiled_graph_is_whole_and_right(fused, samples):
    torch._dynamo.reset()
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    x = volume(samples, 4, 32, 64, 32).to(torch.bfloat16 if HAS_BF16 else torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BF16):
        assert relative_error(compiled(x), fused(x)) < 1e-2


def test_other_architectures_are_refused(reference):
    network = deepcopy(reference)
    network.conv_blocks_context[0].blocks[0].lrelu = nn.ReLU()
    with pytest.raises(ValueError, match="LeakyReLU"):
        InferenceUNet.from_reference(network)
