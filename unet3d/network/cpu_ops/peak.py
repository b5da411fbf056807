"""What this CPU's instructions multiply at best: loops of products in registers on all threads, the hardware ceiling.

No kernel can be faster, and none comes near that has to load its factors: on an Emerald Rapids products on AMX tiles reach
60% of it with factors from the nearest cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from unet3d.devices import ceilings
from unet3d.devices.ceilings import Rate
from unet3d.network.cpu_ops import build

_FMA = ("AVX-512 FMA", "AVX2 FMA")
# Whose products are, or hold, those of the type: a bf16 number is an fp32 number too.
INSTRUCTIONS = {
    "fp32": _FMA,
    "bf16": ("AMX bf16", "AVX512-BF16", *_FMA),
    "int8": ("AMX int8", "AVX512-VNNI"),
}
# A call of the largest size takes long enough to be timed on every instruction set.
ROUNDS_PER_SIZE = 1000


def why_not(products: str) -> str:
    """Why there is no loop for this type of products here; empty where there is one."""
    if not build.available():
        return build.status()[1]
    if not _available(products):
        wanted = " or ".join(INSTRUCTIONS.get(products, ())) or "none that has a loop"
        return f"our operators' build has no instructions for {products} products ({wanted})"
    return ""


def best(products: str, threads: int | None = None) -> Rate | None:
    """The fastest instruction set for this type of products, measured on so many threads; None where `why_not` says why.

    products: of PRECISIONS. threads: by default those that PyTorch uses in the calling thread. About half a second for each
    instruction set that the CPU has, once in a process.
    """
    if why_not(products):
        return None
    rates = {name: measured for name in _available(products) if (measured := _rate(name, threads)) is not None}
    name = max(rates, key=rates.__getitem__)
    return Rate(products, rates[name], f"{name} in registers")


def _available(products: str) -> list[str]:
    import torch

    there = torch.ops.unet3d_fused.product_loops()
    return [name for name in INSTRUCTIONS.get(products, ()) if name in there]


@functools.cache
def _rate(instructions: str, threads: int | None) -> float | None:
    import torch

    loop = torch.ops.unet3d_fused.product_loop

    def work(size: int) -> tuple[float, Callable[[], object]]:
        rounds = ROUNDS_PER_SIZE * size
        return loop(instructions, 1) * rounds, lambda: loop(instructions, rounds)

    with ceilings.on_threads(threads):
        return ceilings.rate(work, torch.device("cpu"))
