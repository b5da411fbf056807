"""What a run notes of the machine that it is of."""

from made_gpu import HostGpu

from unet3d.devices.cpu import CpuDevice
from unet3d.measure import run
from unet3d.results import schema

HOST = {"cpu": "A"}


def test_the_gpu_its_memory_and_its_driver_are_noted(monkeypatch):
    # A driver that cannot be read leaves no key.
    card = {"device": "Fake", "device_memory_bytes": 2**30}
    assert run.machine(HostGpu(), HOST) == HOST | card
    monkeypatch.setattr(HostGpu, "driver_version", "570.86")
    noted = run.machine(HostGpu(), HOST)
    assert noted == HOST | card | {"driver": "570.86"}
    assert set(noted) <= set(schema.Hardware.__annotations__)
    assert run.machine(CpuDevice(), HOST) == HOST
