"""The layers of operators by the tensors that they are called with, in every form of the network."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch
from marks import skip_without_triton
from torch.utils.flop_counter import FlopCounterMode

from unet3d.engines.pytorch import layers, operators
from unet3d.engines.pytorch.layers import Watch
from unet3d.network import flops
from unet3d.network.inference import InferenceUNet


@pytest.fixture(scope="module")
def tiny_reference():
    """nnU-Net's network with 32 channels and two poolings."""
    from unet3d.brats import weights
    from unet3d.network import reference

    loaded = weights.random_weights(base_features=32, max_features=32, poolings=2)
    return reference.build(loaded.plans, loaded.state_dict)


def watched(module, reference, x, run=None):
    with torch.inference_mode(), Watch(module, flops.convolutions(reference), x, None) as watch:
        (run or module)(x)
    return operators.rows_of_calls(watch.calls, watch.flop_of)


def counted(reference, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reference(x.float())
    return counter.get_total_flops()


def names(reference):
    return [conv.layer for conv in flops.convolutions(reference)]


def test_names_of_layers(tiny_reference):
    assert names(tiny_reference) == [
        *(f"encoder.{level}.{number}" for level in range(3) for number in range(2)),
        *("upsamplings.0", "decoder.0.0", "decoder.0.1", "upsamplings.1", "decoder.1.0", "decoder.1.1"),
        "head",
    ]


@pytest.mark.parametrize("half", [True, False])
def test_the_gpus_form_says_nothing_and_is_known(tiny_reference, half):
    skip_without_triton()
    from unet3d.network.gpu import GpuUNet
    from unet3d.network.gpu_forms import by_architecture

    device = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")
    dtype = torch.float16 if half else torch.float32
    network = GpuUNet.from_reference(tiny_reference, dtype, by_architecture("sm_90").choose).to(device)
    x = torch.randn(1, 4, 8, 8, 16, dtype=dtype, device=device)
    rows = watched(network, tiny_reference, x)
    assert [row.layer for row in rows if row.flop] == names(tiny_reference)
    assert all(row.layer for row in rows)
    assert sum(row.flop for row in rows) == counted(tiny_reference, x.cpu())
    # A decoder's input is made of the upsampled volume and the skip connection: both are read, each is half of the output.
    if half:
        joined = next(row for row in rows if row.name == "unet3d::conv_upsample")
        volume, skip = 2 * 32 * 2 * 2 * 4, 2 * 32 * 4 * 4 * 8
        assert joined.bytes == volume + skip + 2 * skip + 4 * 2 * 32 * 2 + 2 * 8 * 32 * 32


def test_work_of_every_form_is_pytorchs_count(tiny_reference):
    x = torch.randn(2, 4, 8, 8, 16)
    for module in (tiny_reference, InferenceUNet.from_reference(tiny_reference)):
        rows = watched(module, tiny_reference, x)
        assert sum(row.flop for row in rows) == counted(tiny_reference, x)
        assert [row.layer for row in rows if row.flop] == names(tiny_reference)
        assert all(row.layer for row in rows)


def test_weights_that_are_cast_in_each_call_are_their_layers(tiny_reference):
    x = torch.randn(1, 4, 8, 8, 16)

    def run(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tiny_reference(x)

    rows = watched(tiny_reference, tiny_reference, x, run)
    assert [row.layer for row in rows if row.flop] == names(tiny_reference)


def test_equal_parameters_that_a_trace_keeps_once_are_each_layers(tiny_reference):
    """A trace holds one constant for all normalisations' factors of 1."""
    network, x = InferenceUNet.from_reference(tiny_reference), torch.randn(1, 4, 8, 8, 16)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(network, x, check_trace=False).eval())
        traced(x)
    rows = watched(network, tiny_reference, x, traced)
    assert list(dict.fromkeys(row.layer for row in rows if row.layer != layers.INPUT)) == names(tiny_reference)
    place = {layer: number for number, layer in enumerate(names(tiny_reference))}
    order = [place[row.layer] for row in rows if row.layer != layers.INPUT]
    assert order == sorted(order)


def test_an_unknown_weight_is_no_layers(tiny_reference):
    weight = torch.randn(32, 4, 3, 3, 3)

    def run(x):
        y = torch.conv3d(x, weight, None, (1, 1, 1), (1, 1, 1))
        y = torch.nn.functional.leaky_relu_(y)
        return torch.conv_transpose3d(y, torch.randn(32, 16, 2, 2, 2), None, (2, 2, 2))

    x = torch.randn(1, 4, 8, 8, 16)
    rows = watched(tiny_reference, tiny_reference, x, run)
    ours = [row for row in rows if "randn" not in row.name and "normal" not in row.name]
    assert [row.layer for row in ours if "conv" in row.name or "leaky" in row.name] == [None] * 3
    with FlopCounterMode(display=False) as counter:
        run(x)
    assert sum(row.flop for row in rows) == counter.get_total_flops()


def test_views_are_no_rows(tiny_reference):
    x, numbers = torch.randn(1, 4, 8, 8, 16), []
    mark = lambda number: numbers.append(number) or contextlib.nullcontext()  # noqa: E731
    with Watch(tiny_reference, flops.convolutions(tiny_reference), x, mark) as watch:
        x.transpose(0, 1).add(1).transpose(0, 1).mul(2)
    # What a view launches is not the next operator's.
    assert numbers == [0, 1, 2, 3] and watch.places == {1: 0, 3: 1}
    assert [call.name for call in watch.calls] == ["aten::add", "aten::mul"]
    rows = watched(tiny_reference, tiny_reference, x, lambda x: x.permute(0, 2, 3, 4, 1)[:, 1:].contiguous())
    assert [(row.layer, row.bytes) for row in rows] == [(layers.INPUT, 2 * 4 * 4 * 7 * 8 * 16)]


def test_what_watching_costs_once_is_no_part_of_a_hosts_profile(monkeypatch):
    """By a clock that only the network moves: PyTorch prepares what it needs to be watched within the first call."""
    clock = [0.0]
    monkeypatch.setattr(operators, "perf_counter", lambda: clock[0])
    costs = iter((1.7, 0.25, 0.25))

    def infer():
        clock[0] += next(costs)

    @contextlib.contextmanager
    def watching(mark):
        yield SimpleNamespace(calls=[], flop_of={}, sees_compiled=True)

    assert operators.on_host(watching, infer, is_compiled=False).ms == pytest.approx(250)
