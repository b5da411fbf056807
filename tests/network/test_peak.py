"""The loops of products behind the hardware ceiling: which instruction sets they are of, what they count, what they reach."""

import pytest
import torch

from unet3d.devices import ceilings, host
from unet3d.network.cpu_ops import build, peak

native = pytest.mark.skipif(not build.available(), reason=build.status()[1])
LOOPS = {
    "AVX2 FMA": ({"avx2", "fma"}, 2 * 8),
    "AVX-512 FMA": ({"avx512f"}, 2 * 16),
    "AVX512-BF16": ({"avx512_bf16"}, 2 * 32),
    "AVX512-VNNI": ({"avx512_vnni"}, 2 * 64),
    "AMX bf16": ({"amx_bf16", "amx_tile"}, 2 * 16 * 16 * 32),
    "AMX int8": ({"amx_int8", "amx_tile"}, 2 * 16 * 16 * 64),
}


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(ceilings, "BUDGET", 0.05)
    monkeypatch.setattr(ceilings, "LONG_ENOUGH", 0.005)
    measured = (ceilings.measure, peak._rate)
    for cached in measured:
        cached.cache_clear()
    yield
    for cached in measured:
        cached.cache_clear()


@native
def test_loops_are_of_instructions_that_the_cpu_has():
    there = torch.ops.unet3d_fused.product_loops()
    assert set(there) <= {name for name, (flags, _) in LOOPS.items() if flags <= host.cpu_flags()}
    if build.vectors().startswith("AVX"):
        assert "AVX2 FMA" in there


@native
@pytest.mark.parametrize("name", LOOPS)
def test_flop_are_those_of_whole_instructions(name):
    if name not in torch.ops.unet3d_fused.product_loops():
        with pytest.raises(RuntimeError, match="no loop of products"):
            torch.ops.unet3d_fused.product_loop(name, 1)
        return
    once, more = (torch.ops.unet3d_fused.product_loop(name, rounds) for rounds in (1, 1000))
    assert more == 1000 * once and once % LOOPS[name][1] == 0
    with pytest.raises(RuntimeError, match="one round"):
        torch.ops.unet3d_fused.product_loop(name, 0)


@native
@pytest.mark.skipif("avx2" not in host.cpu_flags(), reason="no loops without AVX2")
def test_hardware_is_not_slower_than_the_same_products_from_memory():
    """A product of matrices cannot be faster than products in registers; other work may slow one of the two for a moment."""
    for _ in range(5):
        peak._rate.cache_clear(), ceilings.measure.cache_clear()
        rate = peak.best("fp32", 1)
        assert rate.products == "fp32" and rate.how.endswith("FMA in registers")
        if rate.tflops > 0.8 * ceilings.measure("cpu", "fp32", 1).matmul_tflops:
            return
    pytest.fail("the loop is slower than the library, five times")


@native
@pytest.mark.skipif("avx2" not in host.cpu_flags(), reason="no loops without AVX2")
def test_a_bf16_number_is_an_fp32_number_too():
    """So that bf16's ceiling is no lower than fp32's; what was measured for one type is not measured again for another."""
    rates = {products: peak.best(products, 1) for products in ("fp32", "bf16")}
    assert rates["bf16"].tflops >= rates["fp32"].tflops


@native
def test_bf16_without_instructions_of_its_own_is_multiplied_as_fp32(monkeypatch):
    monkeypatch.setattr(peak, "_rate", lambda name, threads: 2.0)
    there = [name for name in torch.ops.unet3d_fused.product_loops() if name.endswith("FMA")]
    if not there:
        pytest.skip("no loops")
    monkeypatch.setattr(peak, "_available", lambda products: [n for n in peak.INSTRUCTIONS[products] if n in there])
    assert peak.best("bf16").how == f"{there[0]} in registers"


def test_without_operators_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(build, "status", lambda: ("fallback", "no C++ compiler (install g++)"))
    assert peak.best("fp32") is None
    assert peak.why_not("fp32") == "no C++ compiler (install g++)"


@native
def test_a_type_without_a_loop_says_so():
    assert peak.best("fp16") is None
    assert "fp16" in peak.why_not("fp16")
