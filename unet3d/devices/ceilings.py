"""What the machine reaches at best, measured: the rate of matrix products in a precision and of copying memory.

Every share of a ceiling that the benchmark reports is of these figures, never of a data sheet's.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Seconds of repeating per figure, and the size of a call from which it is long against its overhead.
BUDGET, LONG_ENOUGH = 0.5, 0.02
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30, "xpu": 2**30}


@dataclass(frozen=True)
class Ceilings:
    """Best rates measured. None where PyTorch cannot multiply matrices in this precision on this device."""

    device: str
    precision: str
    threads: int | None  # of a CPU
    matmul_tflops: float | None  # 1e12 multiplications and additions a second, each counted as one
    copy_gbs: float  # 1e9 bytes a second, bytes read plus bytes written
    matmul_how: str  # the product that was fastest


@functools.cache
def measure(device: str, precision: str, threads: int | None = None) -> Ceilings:
    """Measure both ceilings in about three seconds and less than 2 GiB; a process does so once for the same arguments.

    device: "cpu", "cuda" or "xpu" (also with an index). precision: "fp32", "fp16", "bf16" or "int8" (int8 to int32).
    threads: CPU threads, by default those that PyTorch uses in the calling thread.

    The matrix product's rate is the better of two forms that compute layers of this network: a square product, by the
    library that torch.mm calls, and a 3x3x3 convolution of 256 channels, by the convolution library. On some CPUs the
    first is far slower than the machine (MKL on CPUs that are not Intel's). The convolution has no padding: libraries leave
    out products with zeros around a volume, which would be counted all the same.
    """
    import torch

    before = torch.get_num_threads()
    kind = torch.device(device).type
    if kind == "cpu" and threads:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            rates = {name: _rate(work, torch.device(device)) for name, work in _products(device, precision).items()}
            copy = _copy(torch.device(device))
        used = torch.get_num_threads() if kind == "cpu" else None
    finally:
        torch.set_num_threads(before)
    found = {name: rate for name, rate in rates.items() if rate is not None}
    fastest = max(found, key=found.__getitem__) if found else "none"
    return Ceilings(
        device=device, precision=precision, threads=used, matmul_tflops=found.get(fastest), copy_gbs=copy, matmul_how=fastest
    )


def _products(device: str, precision: str) -> dict[str, Callable[[int], tuple[float, Callable[[], object]]]]:
    """Forms of a product: each makes, from a size, the FLOP of one call and the call."""
    import torch

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}[precision]

    def random(*shape: int) -> torch.Tensor:
        if dtype == torch.int8:
            return torch.randint(-128, 128, shape, dtype=dtype, device=device)
        return torch.randn(shape, device=device).to(dtype)

    def square(size: int) -> tuple[float, Callable[[], object]]:
        left, right = random(size, size), random(size, size)
        multiply = torch._int_mm if dtype == torch.int8 else torch.mm
        return 2.0 * size**3, lambda: multiply(left, right)

    def convolution(size: int) -> tuple[float, Callable[[], object]]:
        edge = min(64, size // 64)
        x = random(1, 256, *[edge + 2] * 3).contiguous(memory_format=torch.channels_last_3d)
        weight = random(256, 256, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d)
        return 2.0 * 27 * 256 * 256 * edge**3, lambda: torch.conv3d(x, weight)

    def int8_convolution(size: int) -> tuple[float, Callable[[], object]]:
        edge = min(64, size // 64)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "onednn"
        try:
            with warnings.catch_warnings():
                # Tensors that carry their scale are deprecated; PyTorch has no other way to its int8 convolution.
                warnings.simplefilter("ignore")
                weight = torch.quantize_per_tensor(torch.randn(256, 256, 3, 3, 3), 0.02, 0, torch.qint8)
                x = torch.quantize_per_tensor(torch.rand(1, 256, *[edge + 2] * 3), 0.01, 0, torch.quint8)
            packed = torch.ops.quantized.conv3d_prepack(weight, None, [1] * 3, [0] * 3, [1] * 3, 1)
        finally:
            torch.backends.quantized.engine = before
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return 2.0 * 27 * 256 * 256 * edge**3, lambda: torch.ops.quantized.conv3d(x, packed, 1.0, 0)

    if dtype != torch.int8:
        return {"matrix product": square, "3x3x3 convolution": convolution}
    return {"matrix product": square} | ({"3x3x3 convolution": int8_convolution} if device.startswith("cpu") else {})


def _rate(work: Callable[[int], tuple[float, Callable[[], object]]], device: torch.device) -> float | None:
    """TFLOP/s of the fastest call at the smallest size whose calls are long enough to be timed."""
    best = None
    for size in (256, 1024, 2048, 4096, 8192):
        try:
            flop, call = work(size)
            seconds = fastest(call, device)
        except RuntimeError:  # not implemented for this type on this device
            return best
        best = max(best or 0.0, flop / seconds / 1e12)
        if seconds > LONG_ENOUGH:
            break
    return best


def _copy(device: torch.device) -> float:
    import torch

    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / fastest(lambda: target.copy_(source), device) / 1e9


def fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls, each from its start to the end of the device's work.

    The first call is not counted unless it is longer than the time allowed for all.
    """
    import torch

    def wait() -> None:
        if device.type != "cpu":
            getattr(torch, device.type).synchronize(device)

    def once() -> float:
        start = perf_counter()
        call()
        wait()
        return perf_counter() - start

    wait()
    first = once()
    if first > BUDGET:
        return first
    end = perf_counter() + BUDGET
    best = once()
    while perf_counter() < end:
        best = min(best, once())
    return best
