"""Timing the forms of the GPU's convolutions: which one is taken, which are left out; on a GPU or Triton's interpreter."""

import time
from dataclasses import replace

import pytest
import torch
from made_gpu import HostGpu
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from unet3d.devices import registry
from unet3d.errors import UserError
from unet3d.network import gpu, gpu_tuning, quantization
from unet3d.network.gpu_forms import Geometry
from unet3d.network.gpu_tuning import Clock, Trial, fastest

KIND = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), None)
FIRST = Geometry(1, (2, 4, 8), (4,), 32, raw=False)
FULL = Geometry(1, (2, 4, 8), (32,), 32)
JOINED = Geometry(2, (2, 4, 8), (32, 32), 32, upsampled=32)
HALVED = Geometry(1, (2, 4, 8), (64,), 128, stride=(2, 2, 2))


@pytest.fixture
def device(monkeypatch):
    """A device, and a clock that is quick where kernels are interpreted."""
    if KIND is not None:
        return registry.open_device(KIND)
    for name in ("CALLS", "CALLS_BEFORE", "ROUNDS", "LEAST_ROUNDS"):
        monkeypatch.setattr(gpu_tuning, name, 1)
    monkeypatch.setattr(gpu_tuning, "WARM_S", 0)
    return HostGpu()


def timed(geometry, device):
    return gpu_tuning.time_forms(geometry, torch.float16, device, Clock(device), cuda=False)


def test_the_fastest_form_is_taken():
    ms = {"library": 3.0, "march": 1.5, "planes": 2.0}
    assert fastest(FULL, ms) == "march" and fastest(FULL, {**ms, "library": 1.0}) == "library"
    assert fastest(FULL, {**ms, "cuda walk": 9.0}) == "march"
    # int8 was asked for: bf16 is no answer to it, as long as there are products of bytes.
    in_bytes = Geometry(1, (2, 4, 8), (32,), 32, in_bytes=True)
    assert fastest(in_bytes, {**ms, "cuda walk": 9.0}) == "cuda walk" and fastest(in_bytes, ms) == "march"


def test_every_form_is_timed_once_for_equal_convolutions(device):
    found = gpu_tuning.tune([FIRST, JOINED, FULL, HALVED, FULL], torch.float16, device, cuda=False)
    assert {geometry: set(timed.ms) for geometry, timed in found.items()} == {
        FIRST: {"library", "first", "planes"},
        JOINED: {"library", "planes"},
        FULL: {"library", "march", "planes"},
    }
    assert all(ms > 0 for timed in found.values() for ms in timed.ms.values())
    assert not any(timed.left_out for timed in found.values())


class Called(TorchDispatchMode):
    """The names of our operators in the order in which they are called; the library's convolution has many names."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        package, _, name = function.name().partition("::")
        if package == "unet3d":
            self.names.append(name)
        return function(*arguments, **(kwargs or {}))


@pytest.mark.parametrize(
    ("geometry", "form", "names"),
    [
        (FIRST, "library", ["norm_scale"]),
        (FULL, "library", ["norm_apply", "norm_scale"]),
        (FULL, "planes", ["norm_apply", "conv_planes"]),
        (JOINED, "planes", ["conv_upsample", "conv_planes"]),
    ],
)
@torch.inference_mode()
def test_a_form_is_timed_with_what_it_costs_around_it(device, geometry, form, names):
    call = Trial(geometry, torch.float16, device.torch_device).call(form)
    with Called() as called:
        call()
    assert called.names == names


def test_a_form_with_a_wrong_result_is_left_out(device, monkeypatch):
    right = gpu.pack_planes_weight
    monkeypatch.setattr(gpu, "pack_planes_weight", lambda weight: right(weight.flip(2)))
    found = timed(JOINED, device)
    assert set(found.ms) == {"library"}
    assert found.left_out["planes"].startswith("its result differs from the library's by ")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("\n  PassManager::run failed\nat line 3"), "RuntimeError: PassManager::run failed"),
        (torch.OutOfMemoryError("out of memory"), "OutOfMemoryError: out of memory"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_a_form_that_cannot_run_is_left_out(device, monkeypatch, error, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(gpu, "pack_planes_weight", fail)
    found = timed(JOINED, device)
    assert (set(found.ms), found.left_out) == ({"library"}, {"planes": told})


def test_not_a_number_is_no_result(device, monkeypatch):
    right = gpu.pack_planes_weight
    monkeypatch.setattr(gpu, "pack_planes_weight", lambda weight: right(weight) * float("nan"))
    assert "differs" in timed(JOINED, device).left_out["planes"]


def test_without_the_librarys_result_there_is_nothing_to_compare_with(device, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch, "conv3d", fail)
    error = RuntimeError("no engine found")
    with pytest.raises(UserError, match=r"cannot compute the convolution 64 to 32 at 2x4x8 \(RuntimeError: no engine.*TUNE=no"):
        timed(JOINED, device)
    error = torch.OutOfMemoryError("out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        timed(JOINED, device)


@pytest.mark.parametrize("geometry", [FULL, JOINED])
def test_products_of_bytes_are_within_the_limit_and_not_those_of_half(geometry):
    """As PyTorch computes them from whole numbers in float64; the kernels themselves need a GPU."""
    trial = Trial(replace(geometry, in_bytes=True), torch.float32, torch.device("cpu"))
    sources = [volume_of(trial.source)]
    if trial.up is not None:
        sources = [functional.conv_transpose3d(sources[0], trial.up.weight.double(), stride=2), volume_of(trial.skip)]
    weight, ranges = trial.block.conv.weight, trial.ranges
    quantised = quantization.quantise(weight.detach(), ranges)
    bytes_of = [
        (source / step + zero).round().clamp(0, 255) - zero
        for source, step, zero in zip(sources, ranges.steps, ranges.zeros, strict=True)
    ]
    sums = functional.conv3d(torch.cat(bytes_of, 1), quantised.weight.double(), padding=1)
    exact = functional.conv3d(torch.cat(sources, 1), weight.double(), padding=1)
    made = [
        functional.leaky_relu(functional.instance_norm(y, weight=trial.block.weight.double(), bias=trial.block.bias.double()))
        for y in (sums * quantised.factor.double().view(1, -1, 1, 1, 1), exact)
    ]
    error = gpu_tuning.relative_error(*(y.detach().float() for y in made))
    limits = [gpu_tuning.limit_of(trial.geometry, form, torch.bfloat16) for form in ("cuda walk", "planes")]
    assert limits[1] / 10 < error < limits[0] / 2 and limits[1] < limits[0]


def volume_of(raw):
    """In float64, as the next layer reads it."""
    x, scale, shift = (part.double() for part in raw)
    return functional.leaky_relu(x * scale[:, :, None, None, None] + shift[:, :, None, None, None])


class Slow(HostGpu):
    """Whose calls take 5 ms of its own, which only synchronising waits for."""

    waiting = 0

    def synchronize(self):
        time.sleep(0.005 * self.waiting)
        self.waiting = 0

    def work(self):
        self.waiting += 1
        return torch.zeros(1), None, None


def test_the_clock_waits_for_the_device():
    device = Slow()
    assert Clock(device).seconds(device.work) >= 0.005
    assert device.captures == 1


def test_a_device_that_records_nothing_launches_all_forms_alike(monkeypatch):
    monkeypatch.setattr(HostGpu, "fail", "not while capturing")
    device = HostGpu()
    for name in ("CALLS", "CALLS_BEFORE", "ROUNDS", "LEAST_ROUNDS"):
        monkeypatch.setattr(gpu_tuning, name, 1)
    monkeypatch.setattr(gpu_tuning, "WARM_S", 0)
    found = timed(JOINED, device)
    assert set(found.ms) == {"library", "planes"} and not found.left_out
