"""How devices and tiles are named to the driver and to users, on machines that are not here."""

from types import SimpleNamespace

import pytest

from unet3d.devices.cpu import CpuDevice
from unet3d.devices.cuda import CudaDevice
from unet3d.devices.xpu import XpuDevice
from unet3d.errors import UserError

VARIABLES = ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ZE_FLAT_DEVICE_HIERARCHY", "ONEAPI_DEVICE_SELECTOR")


class Runtime:
    """torch.cuda or torch.xpu of a machine with so many devices, each of two tiles."""

    def __init__(self, count, **properties):
        self._count = count
        self._properties = SimpleNamespace(max_num_sub_devices=2, **properties)

    def device_count(self):
        return self._count

    def get_device_properties(self, index):
        return self._properties

    def set_device(self, index):
        pass


def machine(monkeypatch, cls, count, variables=(), **properties):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, text in dict(variables).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr(cls, "runtime", classmethod(lambda cls: Runtime(count, **properties)))


@pytest.mark.parametrize(
    ("cls", "count", "variables", "names"),
    [
        (CudaDevice, 4, {}, ["0", "1", "2", "3"]),
        (CudaDevice, 2, {"CUDA_VISIBLE_DEVICES": "3,GPU-5e0a"}, ["3", "GPU-5e0a"]),
        (XpuDevice, 4, {}, ["0", "1", "2", "3"]),
        (XpuDevice, 2, {"ZE_AFFINITY_MASK": "2,3"}, ["2", "3"]),
        (XpuDevice, 2, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, ["0.0", "0.1", "1.0", "1.1"]),
        (XpuDevice, 1, {"ZE_FLAT_DEVICE_HIERARCHY": "composite", "ZE_AFFINITY_MASK": "1"}, ["1.0", "1.1"]),
        (XpuDevice, 1, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE", "ZE_AFFINITY_MASK": "0.1"}, ["0.1"]),
    ],
)
def test_names_are_those_of_the_drivers_variable(monkeypatch, cls, count, variables, names):
    machine(monkeypatch, cls, count, variables)
    assert cls.visible_names() == names
    shown = [cls.variables_for(name) for name in names]
    assert [variables[cls.visibility_variable] for variables in shown] == names
    if cls is XpuDevice:
        hierarchy = variables.get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT").upper()
        assert {variables["ZE_FLAT_DEVICE_HIERARCHY"] for variables in shown} == {hierarchy}


def test_a_selector_that_numbers_otherwise_is_refused(monkeypatch):
    machine(monkeypatch, XpuDevice, 2, {"ONEAPI_DEVICE_SELECTOR": "level_zero:1"})
    with pytest.raises(UserError, match="unset it"):
        XpuDevice.visible_names()


def test_names_as_users_know_them():
    assert (CudaDevice.place_name("1"), XpuDevice.place_name("0.1")) == ("GPU 1", "tile 0.1")


def test_a_gpus_address_is_told_where_pytorch_knows_it(monkeypatch):
    machine(monkeypatch, CudaDevice, 1, pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    assert CudaDevice(0).pci_address() == "0000:3b:00.0"
    machine(monkeypatch, XpuDevice, 1)
    assert XpuDevice(0).pci_address() is None
    assert CpuDevice().pci_address() is None and CpuDevice.visible_names() == []
