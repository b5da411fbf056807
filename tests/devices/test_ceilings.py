"""The measured ceilings: of the machine that runs them, in units that can be checked against another product."""

from time import perf_counter

import pytest
import torch
from marks import needs_cuda

from unet3d.devices import ceilings


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(ceilings, "BUDGET", 0.02)
    monkeypatch.setattr(ceilings, "LONG_ENOUGH", 0.002)
    ceilings.measure.cache_clear()
    yield
    ceilings.measure.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_rates_bound_what_the_same_machine_does(precision):
    rates = ceilings.measure("cpu", precision, threads=1)
    assert (rates.precision, rates.threads) == (precision, 1)
    assert rates.matmul_how in ("matrix product", "3x3x3 convolution")
    # Any copy is bounded by memory, and any product by the ceiling, both with wide margins for a loaded machine.
    assert 0.1 < rates.copy_gbs < 2000
    assert 1e-4 < rates.matmul_tflops < 100


def test_fp32_rate_is_that_of_a_product_timed_here():
    rates = ceilings.measure("cpu", "fp32", threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.randn(512, 512)
        seconds = []
        for _ in range(10):
            start = perf_counter()
            a @ a
            seconds.append(perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    assert rates.matmul_tflops > 0.2 * 2 * 512**3 / min(seconds) / 1e12


def test_a_process_measures_once():
    assert ceilings.measure("cpu", "fp32", 1) is ceilings.measure("cpu", "fp32", 1)


def test_threads_are_as_they_were():
    before = torch.get_num_threads()
    ceilings.measure("cpu", "fp32", threads=1)
    assert torch.get_num_threads() == before


def test_a_type_that_cannot_be_multiplied_has_no_rate(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(torch, "mm", refuse)
    monkeypatch.setattr(torch, "conv3d", refuse)
    rates = ceilings.measure("cpu", "fp16")
    assert rates.matmul_tflops is None and rates.matmul_how == "none"
    assert rates.copy_gbs > 0


def test_on_a_gpu_bytes_are_also_multiplied_with_their_sums_side_by_side():
    products = ceilings._products("meta", "int8")
    flop, call = products["matrix product by columns"](64)
    product = call()
    assert product.dtype == torch.int32 and product.shape == (64, 64) and flop == 2 * 64**3
    factors = [cell.cell_contents for cell in call.__closure__ if isinstance(cell.cell_contents, torch.Tensor)]
    assert sorted(factor.stride() for factor in factors) == [(1, 64), (64, 1)]


@needs_cuda
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() not in ((8, 0), (8, 6), (8, 9), (9, 0)),
    reason="needs a GPU that is known to multiply bytes faster",
)
def test_a_gpu_multiplies_bytes_at_least_as_fast_as_half_precision():
    device = torch.device("cuda")
    fastest = {}
    for precision in ("int8", "fp16"):
        rates = (ceilings.rate(work, device) for work in ceilings._products("cuda", precision).values())
        fastest[precision] = max(rate for rate in rates if rate is not None)
    assert fastest["int8"] > fastest["fp16"]
