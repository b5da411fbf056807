"""The network of fused layers against nnU-Net's own: same weights, same input, same output."""

import math
import threading
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn

from unet3d.engines.pytorch.form import GRAPH_ONLY
from unet3d.network import cpu, flops
from unet3d.network.cpu_ops import build
from unet3d.network.plans import random_plans
from unet3d.network.reference import build as build_reference

pytestmark = pytest.mark.skipif(not build.available(), reason=build.status()[1])
TYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def reference(narrow_reference):
    """A narrow network with norm parameters that are not 1 and 0."""
    network = deepcopy(narrow_reference)
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


@pytest.fixture(
    scope="module",
    params=[(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)],
    ids=["fp32", "bf16", "bf16-amx"],
)
def network(reference, request):
    dtype, tiles = request.param
    return cpu.CpuUNet.from_reference(reference, dtype, tiles=tiles)


def volume(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(found, expected):
    assert found.shape == expected.shape
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("shape", [(1, 4, 64, 32, 64), (2, 4, 32, 64, 32)])
def test_fp32_equals_the_reference(reference, shape):
    x = volume(*shape)
    found = cpu.CpuUNet.from_reference(reference, torch.float32)(x)
    assert found.dtype == torch.float32 and error(found, deepcopy(reference).double()(x.double())) < 1e-4


@pytest.mark.parametrize("tiles", [False, True], ids=["", "amx"])
def test_bf16_is_no_worse_than_pytorchs(reference, tiles):
    # Large enough for the deepest normalisation to have voxels: with two of them errors are a matter of luck.
    x = volume(1, 4, 64, 64, 96)
    exact = deepcopy(reference).double()(x.double())
    found = cpu.CpuUNet.from_reference(reference, torch.bfloat16, tiles=tiles)(x)
    assert found.dtype == torch.bfloat16
    # Weights and activations rounded to bf16, products exact: what bf16 stored anywhere costs at least.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stock = error(reference(x), exact)
    assert error(found, exact) < 1.1 * stock


def test_samples_of_a_batch_do_not_mix(network):
    x = volume(2, 4, 32, 64, 32)
    x[1] *= 3
    both = network(x)
    assert all(torch.equal(both[i : i + 1], network(x[i : i + 1])) for i in range(2))


def test_a_trace_is_right_for_other_shapes(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated; users' commands rely on it
        traced = torch.jit.freeze(torch.jit.trace(network, volume(1, 4, 32, 32, 64), check_trace=False).eval())
    for shape in ((1, 4, 32, 32, 64), (2, 4, 64, 32, 32)):
        x = volume(*shape, seed=3)
        assert torch.equal(traced(x), network(x))


def test_a_compiled_network_is_one_graph_and_right(network):
    torch._dynamo.reset()
    x = volume(1, 4, 32, 64, 32).contiguous(memory_format=torch.channels_last_3d)
    compiled = torch.compile(network, dynamic=False, fullgraph=True, backend=GRAPH_ONLY)
    assert error(compiled(x), network(x)) < 1e-6


def test_two_streams_at_once(network):
    volumes = [volume(1, 4, 32, 64, 32, seed=i) for i in range(2)]
    expected = [network(x) for x in volumes]
    wrong = []

    def stream(i):
        with torch.inference_mode():
            torch.set_num_threads(2)
            wrong.extend(n for n in range(6) if not torch.equal(network(volumes[i]), expected[i]))

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_forms_say_what_computes(network):
    forms = network.forms()
    assert len(forms) == 28 and all("AMX" in text or text.endswith(build.vectors()) for text in forms.values())
    assert forms["encoder.0.1"].startswith("winograd" if "AMX" not in forms["encoder.0.1"] else "direct")
    assert forms["encoder.0.0"].startswith("direct")


@pytest.mark.parametrize("dtype", TYPES)
def test_executed_products_are_those_of_the_method(dtype):
    """Of a volume whose extents Winograd's tiles fill or reach over: m outputs of an axis take m + 2 products, not 3 m."""
    shape = (2, 4, 96, 96, 64)
    nominal = flops.layers(random_plans(), shape)
    planned = cpu.planned(random_plans(), dtype, shape)
    with torch.device("meta"):
        forms = cpu.CpuUNet.from_reference(build_reference(random_plans(), device="meta"), dtype).forms()
    assert {layer.name for layer in planned} == set(forms)
    for layer, executed in zip(nominal, planned, strict=True):
        form = forms[executed.name]
        assert f"{executed.products} products" in form
        if not form.startswith("winograd"):
            # Tiles of the network's input are filled up with zeros, which are multiplied too.
            filled = "AMX" in form and executed.name == "encoder.0.0"
            assert layer.flop < executed.flop < 4 * layer.flop if filled else executed.flop == layer.flop
            continue
        tile = [int(extent) for extent in form.split()[1].rstrip(",").split("x")]
        level = 2 ** int(executed.name.split(".")[1])
        if executed.name.startswith("decoder"):
            level = 2 ** (4 - int(executed.name.split(".")[1]))
        saved = 1.0
        for extent, outputs in zip(shape[2:], tile, strict=True):
            tiles = math.ceil(extent // level / outputs)
            saved *= tiles * (outputs + 2) / (3 * extent // level)
        assert executed.flop == pytest.approx(saved * layer.flop) and executed.products == "fp32"
    if any(form.startswith("winograd") for form in forms.values()):
        assert 0 < sum(layer.flop for layer in planned) < 0.5 * sum(layer.flop for layer in nominal)


@pytest.mark.parametrize("tiles", [False, True])
def test_products_are_of_the_type_that_the_forms_say(reference, tiles):
    network = cpu.CpuUNet.from_reference(reference, torch.bfloat16, tiles=tiles)
    executed = network.executed((1, 4, 64, 64, 64))
    assert {layer.name: layer.products for layer in executed} == {
        name: next(type_ for type_ in ("fp32", "bf16", "int8") if f"{type_} products" in form)
        for name, form in network.forms().items()
    }


def test_other_networks_are_refused(reference):
    changed = deepcopy(reference)
    changed.conv_blocks_context[0].blocks[0].lrelu = nn.LeakyReLU(1.5)
    with pytest.raises(ValueError, match="slope"):
        cpu.CpuUNet.from_reference(changed, torch.float32)
    changed.conv_blocks_context[0].blocks[0].lrelu = nn.LeakyReLU(0.2)
    with pytest.raises(ValueError, match="one slope"):
        cpu.CpuUNet.from_reference(changed, torch.float32)
    with pytest.raises(ValueError, match="fp32 or bf16"):
        cpu.CpuUNet.from_reference(reference, torch.float16)


@pytest.mark.parametrize("tiles", [False, True])
def test_a_network_as_narrow_as_its_input(tiles):
    """Its other convolutions have no more channels than the input, and are not packed as the input's."""
    narrow = build_reference(random_plans(base_features=4, max_features=8, poolings=2))
    dtype = torch.bfloat16 if tiles else torch.float32
    x = volume(1, 4, 16, 16, 16)
    assert error(cpu.CpuUNet.from_reference(narrow, dtype, tiles=tiles)(x), narrow(x)) < (0.05 if tiles else 1e-4)
