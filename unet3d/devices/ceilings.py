"""What the machine reaches at best, measured: the rate of a library's products in a precision, and of copying memory.

Every share of a ceiling that the benchmark reports is of measured figures, never of a data sheet's. There are two of
products. The library ceiling is measured here. The hardware ceiling of a CPU is that of its instructions in registers, see
`unet3d.network.cpu_ops.peak`; `unet3d.measure.rates` puts both together. Of a GPU only a library's is measured.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d.config.precisions import PRECISIONS
from unet3d.devices.registry import device_class

if TYPE_CHECKING:
    import torch

# Seconds of repeating per figure, and the size of a call from which it is long against its overhead.
BUDGET, LONG_ENOUGH = 0.5, 0.02

# Whose ceiling a share is of, and why a rate can be above it.
HARDWARE, LIBRARY = "hardware", "library"
EXCESS = {
    HARDWARE: "other work slowed the ceiling's measurement after the run",
    LIBRARY: "the library used for it is slower than what ran",
}

# Makes, from a size, the FLOP of one call and the call.
Product = Callable[[int], tuple[float, Callable[[], object]]]


@dataclass(frozen=True)
class Rate:
    """The best rate of products in one data type."""

    products: str  # of PRECISIONS
    tflops: float  # 1e12 multiplications and additions a second, each counted as one
    how: str  # what was measured


@dataclass(frozen=True)
class Ceilings:
    """Best rates measured. None where PyTorch cannot multiply matrices in this precision on this device."""

    device: str
    precision: str
    threads: int | None  # of a CPU
    matmul_tflops: float | None  # the library ceiling, as `Rate.tflops`
    copy_gbs: float  # 1e9 bytes a second, bytes read plus bytes written
    matmul_how: str  # the library's product that was fastest
    # Of each type of products that was asked for and has one: on a CPU the hardware's, on a GPU a library's best.
    hardware: tuple[Rate, ...] = ()

    def of(self, products: str) -> Rate | None:
        """The ceiling that products in this type are held against, see `whose`: the hardware's, where there is none a
        library's."""
        for rate in self.hardware:
            if rate.products == products:
                return rate
        if products != self.precision or self.matmul_tflops is None:
            return None
        return Rate(products, self.matmul_tflops, library(self.matmul_how))

    def whose(self, products: str) -> str:
        """HARDWARE where the ceiling of this type is that of a loop in a CPU's registers, or of a library that beat the loop,
        else LIBRARY."""
        measured = any(rate.products == products for rate in self.hardware)
        return HARDWARE if measured and self.device == "cpu" else LIBRARY

    def seconds(self, tflop: Mapping[str, float]) -> float | None:
        """Seconds that these products, 1e12 FLOP by their type, take at their ceilings; None where one is not known."""
        rates = {products: self.of(products) for products in tflop}
        known = {products: rate.tflops for products, rate in rates.items() if rate is not None}
        return sum(amount / known[products] for products, amount in tflop.items()) if len(known) == len(tflop) else None


def library(how: str) -> str:
    """The name of a library ceiling whose fastest product was `how`."""
    return f"a library's {how}"


@functools.cache
def measure(device: str, precision: str, threads: int | None = None) -> Ceilings:
    """Measure both ceilings in about three seconds and less than 2 GiB; a process does so once for the same arguments.

    device: "cpu", "cuda" or "xpu" (also with an index). precision: of PRECISIONS; int8 is multiplied to int32.
    threads: CPU threads, by default those that PyTorch uses in the calling thread.

    The matrix product's rate is the best of forms that compute layers of this network: a square product, by the library that
    torch.mm calls, in int8 also with its second factor stored by columns, and a 3x3x3 convolution of 256 channels, by the
    convolution library. On some CPUs the first is far slower than the machine (MKL on CPUs that are not Intel's). The
    convolution has no padding: libraries leave out products with zeros around a volume, which would be counted all the same.
    """
    import torch

    kind = torch.device(device).type
    with on_threads(threads if kind == "cpu" else None), torch.inference_mode():
        rates = {name: rate(work, torch.device(device)) for name, work in _products(device, precision).items()}
        copy = _copy(torch.device(device))
        used = torch.get_num_threads() if kind == "cpu" else None
    measured = {name: tflops for name, tflops in rates.items() if tflops is not None}
    how = max(measured, key=measured.__getitem__) if measured else "none"
    return Ceilings(
        device=device, precision=precision, threads=used, matmul_tflops=measured.get(how), copy_gbs=copy, matmul_how=how
    )


@contextlib.contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """PyTorch with this number of CPU threads inside, None: with those that it has."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def _products(device: str, precision: str) -> dict[str, Product]:
    """The forms of a product that a device has for the precision, by name."""
    import torch

    dtype = PRECISIONS[precision].dtype()

    def random(*shape: int) -> torch.Tensor:
        if dtype == torch.int8:
            return torch.randint(-128, 128, shape, dtype=dtype, device=device)
        return torch.randn(shape, device=device).to(dtype)

    multiply = torch._int_mm if dtype == torch.int8 else torch.mm

    def square(size: int, by_columns: bool = False) -> tuple[float, Callable[[], object]]:
        left, right = random(size, size), random(size, size)
        right = right.t() if by_columns else right
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

    products: dict[str, Product] = {"matrix product": square}
    if dtype != torch.int8:
        products["3x3x3 convolution"] = convolution
        return products
    if device.startswith("cpu"):
        products["3x3x3 convolution"] = int8_convolution
    else:
        # cuBLAS uses matrix units for bytes where both factors have the numbers of a sum side by side: in the other order an
        # H200 made a sixth of its products in half precision, and the network's own int8 layers were far above that.
        products["matrix product by columns"] = functools.partial(square, by_columns=True)
    return products


def rate(work: Product, device: torch.device) -> float | None:
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

    source = torch.ones(device_class(device.type).copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / fastest(lambda: target.copy_(source), device) / 1e9


def fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls, each from its start to the end of the device's work.

    The first call is not counted unless it is longer than the time allowed for all.
    """
    import torch

    on_host = device_class(device.type).is_host

    def wait() -> None:
        if not on_host:
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
