"""The registry of devices, and a device of a kind that is not in it: the protocol is all that callers need."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from unet3d.config import names
from unet3d.devices import platforms, registry
from unet3d.devices.base import Device
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.lanes import Lane
from unet3d.errors import UserError


def verbs():
    """Names of everything that the protocol declares."""
    functions = {name for name, value in vars(Device).items() if not name.startswith("_") and callable(value)}
    others = {name for name, value in vars(Device).items() if isinstance(value, classmethod | property)}
    return functions | others | {name for name in Device.__annotations__}


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_has_every_verb_with_the_protocols_arguments(kind):
    cls = registry.device_class(kind)
    assert cls.kind == kind
    assert not {name for name in verbs() - {"index"} if not hasattr(cls, name)}
    for name, function in inspect.getmembers(Device, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(getattr(cls, name)).parameters) == list(inspect.signature(function).parameters), name


def test_settings_name_the_platforms_that_are_registered():
    assert set(names.PLATFORMS) == set(registry.PLATFORMS)
    assert [kind for kind in registry.KINDS if registry.device_class(kind).is_host] == ["cpu"]
    assert registry.accelerators() == ["cuda", "xpu"]
    for kind in registry.KINDS.values():
        assert registry.device_class(kind.name).single_tile_platforms <= set(kind.platforms)


def test_unknown_kinds_and_numbers_are_told():
    with pytest.raises(UserError, match="allowed are cpu, cuda, xpu"):
        registry.device_class("tpu")
    with pytest.raises(UserError, match="cpu:1 does not exist"):
        registry.open_device("cpu", 1)


class TpuDevice(CpuDevice):
    """An accelerator of a fourth kind; its memory and its arithmetic are the host's."""

    kind = "tpu"
    is_host = False
    visibility_variable = "TPU_VISIBLE"

    def platform(self):
        return "TPU"

    def new_stream(self):
        return SimpleNamespace(synchronize=lambda: self.log.append("stream"))

    def on_stream(self, stream):
        return torch.inference_mode()

    def properties(self):
        return SimpleNamespace(name="Tensor Unit 1")

    def __init__(self, index=0):
        super().__init__(index)
        self.log = []


@pytest.fixture
def tpu(monkeypatch):
    kind = registry.Kind("tpu", "unet3d.devices.tpu", "TpuDevice", ("TPU",))
    monkeypatch.setitem(registry.KINDS, "tpu", kind)
    monkeypatch.setitem(registry.PLATFORMS, "TPU", "tpu")
    real = registry.importlib.import_module
    made = SimpleNamespace(TpuDevice=TpuDevice)
    monkeypatch.setattr(registry.importlib, "import_module", lambda name: made if name == "unet3d.devices.tpu" else real(name))


def test_a_line_registers_a_kind_and_its_platform(tpu, monkeypatch):
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(registry.device_class(kind), "is_available", classmethod(lambda cls: False))
    device, platform, reason = platforms.select(None)
    assert isinstance(device, Device) and (device.kind, platform) == ("tpu", "TPU")
    assert reason == "detected: Tensor Unit 1"
    assert platforms.select("TPU")[0].kind == "tpu"


def test_a_device_of_another_series_is_told(tpu, monkeypatch):
    monkeypatch.setattr(TpuDevice, "platform", lambda self: "TPU2")
    with pytest.raises(UserError, match="PLATFORM=TPU, but this machine has a Tensor Unit 1; use PLATFORM=TPU2"):
        platforms.select("TPU")


def test_a_lane_runs_on_any_device_by_the_protocol():
    device = TpuDevice()
    with Lane(device, own_stream=True).running():
        assert torch.is_inference_mode_enabled()
    assert device.log == ["stream"] and not torch.is_inference_mode_enabled()
    with Lane(device, own_stream=False).running():
        assert not torch.is_inference_mode_enabled()


def test_telemetry_has_a_source_for_each_that_a_device_names():
    from unet3d.measure.telemetry import sources

    named = {name for kind in registry.KINDS for name in registry.device_class(kind).telemetry_sources}
    assert named == set(sources.OF_DEVICES)
