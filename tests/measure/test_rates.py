"""Library and hardware ceilings together: which of them a layer's products are held against."""

import dataclasses

import pytest

from unet3d.devices import ceilings
from unet3d.devices.ceilings import HARDWARE, LIBRARY, Ceilings, Rate
from unet3d.measure import rates
from unet3d.network.cpu_ops import peak


@pytest.fixture
def machine(monkeypatch):
    """A machine with these rates of libraries and of loops, 1e12 FLOP a second by type."""

    def set_to(libraries, loops):
        monkeypatch.setattr(
            ceilings,
            "measure",
            lambda device, precision, threads=None: Ceilings(
                device, precision, threads, libraries.get(precision), 20.0, "matrix product"
            ),
        )
        monkeypatch.setattr(
            peak, "best", lambda products, threads: Rate(products, loops[products], "a loop") if products in loops else None
        )

    return set_to


def test_the_library_does_not_hide_the_machine(machine):
    machine({"bf16": 4.8}, {"bf16": 16.8, "fp32": 2.0})
    top = rates.measure("cpu", "bf16", 16, ["fp32"])
    assert (top.matmul_tflops, top.of("bf16").tflops, top.of("fp32").tflops) == (4.8, 16.8, 2.0)
    # A layer of each kind at its ceiling: products in fp32 are not held against bf16's rate.
    assert top.seconds({"bf16": 16.8, "fp32": 2.0}) == pytest.approx(2.0)


def test_a_library_above_the_loop_is_what_the_hardware_can_do(machine):
    machine({"fp32": 3.0}, {"fp32": 2.0})
    rate = rates.measure("cpu", "fp32", 1).of("fp32")
    assert rate.tflops == 3.0 and "faster than the loop of a loop" in rate.how
    assert rates.measure("cpu", "fp32", 1).whose("fp32") == HARDWARE


def test_without_a_loop_shares_are_of_the_library_and_named_so(machine):
    machine({"fp32": 3.0}, {})
    top = rates.measure("cpu", "fp32", 1, ["bf16"])
    assert top.hardware == () and top.of("fp32") == Rate("fp32", 3.0, "a library's matrix product")
    assert top.whose("fp32") == LIBRARY
    assert top.of("bf16") is None and top.seconds({"fp32": 1.0, "bf16": 1.0}) is None


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpus_ceilings_are_its_librarys_and_named_so(machine, device):
    machine({"bf16": 726.0, "int8": 1400.0}, {"bf16": 1.0})
    top = rates.measure(device, "bf16", None, ["int8"])
    rate = top.of("bf16")
    assert rate.tflops == 726.0 and rate.how == "best of a library's matrix product, in large calls"
    assert top.of("int8").tflops == 1400.0 and top.whose("bf16") == top.whose("int8") == LIBRARY


def test_nothing_known_is_nothing_told(machine):
    machine({}, {})
    assert rates.measure("cpu", "fp16", 1).of("fp16") is None
    assert dataclasses.asdict(rates.measure("cpu", "fp16", 1))["hardware"] == ()
