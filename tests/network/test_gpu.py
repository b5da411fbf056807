"""The network's form for GPUs against nnU-Net's own: on a GPU where there is one, else on Triton's interpreter."""

import warnings
from collections import Counter

import pytest
import torch

GPU = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), None)
pytest.importorskip("triton")
DEVICE = GPU or "cpu"

from unet3d.engines.pytorch.witness import Witness  # noqa: E402
from unet3d.network import flops, quantization  # noqa: E402
from unet3d.network.cuda_ops import kernels  # noqa: E402
from unet3d.network.gpu import Block, GpuUNet  # noqa: E402
from unet3d.network.gpu_forms import by_architecture  # noqa: E402
from unet3d.network.inference import InferenceUNet  # noqa: E402

ARCHITECTURE = "sm_{}{}".format(*torch.cuda.get_device_capability()) if GPU == "cuda" else None
triton_sm_90, sm_90 = (by_architecture("sm_90", cuda).choose for cuda in (False, True))
CHOOSERS = [triton_sm_90] if kernels.why_not(ARCHITECTURE) else [triton_sm_90, sm_90]
PRECISIONS = {torch.float32: 1e-4, torch.float16: 1e-2} | ({torch.bfloat16: 0.06} if GPU else {})


@pytest.fixture(scope="module")
def tiny_reference():
    """nnU-Net's network with 16 to 32 channels and one pooling, norms that are not 1 and 0."""
    from unet3d.brats import weights
    from unet3d.network import reference

    loaded = weights.random_weights(base_features=32, max_features=32, poolings=2)
    network = reference.build(loaded.plans, loaded.state_dict)
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return network


torch.backends.cudnn.allow_tf32 = False  # as the CUDA device sets it


def volume(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(reference, dtype, choose=triton_sm_90):
    return GpuUNet.from_reference(reference, dtype, choose).to(DEVICE)


def counted(network):
    return Counter(module.form for module in network.modules() if isinstance(module, Block))


def relative_error(output, expected):
    return ((output.double().cpu() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("choose", CHOOSERS)
@torch.inference_mode()
def test_equals_nnunet(tiny_reference, dtype, samples, choose):
    x = volume(samples, 4, 8, 8, 16)
    network = built(tiny_reference, dtype, choose)
    output = network(x.to(DEVICE, dtype))
    assert output.dtype == dtype and output.is_contiguous(memory_format=torch.channels_last_3d)
    assert relative_error(output, tiny_reference(x)) < PRECISIONS[dtype]


@pytest.mark.parametrize("choose", CHOOSERS)
@torch.inference_mode()
def test_traced_and_compiled_are_the_same_network(tiny_reference, choose):
    network, x = built(tiny_reference, torch.float16, choose), volume(1, 4, 8, 8, 16).half().to(DEVICE)
    expected = network(x).cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated; users' commands rely on it
        traced = torch.jit.freeze(torch.jit.trace(network, x, check_trace=False).eval())
    assert relative_error(traced(x), expected) < 1e-5
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    assert relative_error(compiled(x), expected) < 1e-5


@torch.inference_mode()
def test_profiler_sees_the_data_type_of_every_convolution(tiny_reference):
    network, x = built(tiny_reference, torch.float16), volume(1, 4, 8, 8, 16).half().to(DEVICE)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        network(x)
    seen = [
        (event.name(), event.dtypes()[0])
        for event in profile.profiler.kineto_results.events()
        if event.name().startswith(("unet3d::conv", "aten::convolution")) and event.dtypes()
    ]
    assert {dtype for _, dtype in seen} == {"c10::Half"}
    names = [name for name, _ in seen]
    assert names.count("unet3d::conv_upsample") == 2 and names.count("unet3d::conv_head") == 1
    forms = counted(network)
    assert names.count("unet3d::conv_first") == forms["first"] == 1
    assert names.count("unet3d::conv_march") == forms["march"] and names.count("unet3d::conv_planes") == forms["planes"]


def test_forms_follow_the_measurements(tiny_reference):
    assert counted(built(tiny_reference, torch.float16)) == {"first": 1, "march": 5, "planes": 2, "library": 2}
    assert counted(GpuUNet.from_reference(tiny_reference, torch.float16, by_architecture("12.60.7").choose)) == {
        "first": 1,
        "library": 9,
    }
    assert counted(GpuUNet.from_reference(tiny_reference, torch.float32, sm_90)) == {"library": 10}
    # The forms of CUDA C++ are chosen by their shapes, and their weights packed, where they cannot run too.
    network = GpuUNet.from_reference(tiny_reference, torch.float16, sm_90)
    assert counted(network) == {"cuda first": 1, "cuda walk": 7, "library": 2}
    assert network.forms()["decoder.0.0"] == "cuda walk, fp16 products"
    assert network.head_by_cuda and not built(tiny_reference, torch.float16, triton_sm_90).head_by_cuda


@pytest.mark.parametrize("choose", [triton_sm_90, sm_90])
def test_executed_products_are_those_of_the_network(tiny_reference, choose):
    network = GpuUNet.from_reference(tiny_reference, torch.float16, choose)
    executed = network.executed((2, 4, 8, 16, 16))
    assert sum(layer.flop for layer in executed) == flops.flops(tiny_reference, (2, 4, 8, 16, 16))
    assert [layer.name for layer in executed] == [conv.layer for conv in flops.convolutions(tiny_reference)]


@pytest.mark.parametrize("choose", CHOOSERS)
@torch.inference_mode()
def test_operators_declare_the_flop_of_the_network(tiny_reference, choose):
    network, x = built(tiny_reference, torch.float16, choose), volume(1, 4, 8, 8, 16).half().to(DEVICE)
    witness = Witness(ipex_packed=False)
    with witness.watching():
        network(x)
    assert sum(witness._flop.values()) == flops.flops(tiny_reference, (1, 4, 8, 8, 16))
    assert witness.precision() == "fp16" and witness.shares() == {"fp16": 1.0}


def ranges_of(reference):
    generator = torch.Generator().manual_seed(3)
    volumes = [torch.randn((4, 16, 16, 16), generator=generator)]
    return quantization.calibrate(InferenceUNet.from_reference(reference), volumes)


def test_layers_of_bytes_say_so(tiny_reference):
    network = GpuUNet.from_reference(tiny_reference, torch.bfloat16, sm_90, ranges=ranges_of(tiny_reference))
    in_bytes = {name for name, told in network.forms().items() if told == "cuda walk, int8 products"}
    assert {"encoder.0.1", "decoder.1.0", "decoder.1.1"} <= in_bytes and "encoder.0.0" not in in_bytes
    types = {layer.name: layer.products for layer in network.executed((1, 4, 8, 16, 16))}
    assert {name for name, products in types.items() if products == "int8"} == in_bytes and types["head"] == "bf16"


@pytest.mark.skipif(sm_90 not in CHOOSERS, reason="our CUDA kernels cannot run here")
@torch.inference_mode()
def test_bytes_are_near_fp32(tiny_reference):
    x = volume(2, 4, 16, 16, 16)
    network = GpuUNet.from_reference(tiny_reference, torch.bfloat16, sm_90, ranges=ranges_of(tiny_reference)).to(DEVICE)
    witness = Witness(ipex_packed=False)
    with witness.watching():
        output = network(x.to(DEVICE, torch.bfloat16))
    assert relative_error(output, tiny_reference(x)) < 0.2
    assert witness.precision() == "int8"


def test_biased_transposed_convolution_is_refused(tiny_reference):
    import copy

    network = copy.deepcopy(tiny_reference)
    network.tu[0] = torch.nn.ConvTranspose3d(32, 32, 2, 2, bias=True)
    with pytest.raises(ValueError, match="without bias"):
        GpuUNet.from_reference(network, torch.float16, triton_sm_90)


def test_parameters_of_the_norm_stay_in_full_precision(tiny_reference):
    block = next(module for module in built(tiny_reference, torch.float16).modules() if isinstance(module, Block))
    assert block.conv.dtype == torch.float16 and block.weight.dtype == block.bias.dtype == torch.float32
