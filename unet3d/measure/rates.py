"""The machine's measured ceilings, of its library and of a CPU's hardware, and those beside the figures of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from unet3d import progress
from unet3d.devices import ceilings
from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.devices.registry import device_class
from unet3d.network.cpu_ops import peak
from unet3d.planning.plan import Plan
from unet3d.results.facts import RunWarning
from unet3d.workload import SHAPE


def measure(device: str, precision: str, threads: int | None = None, products: Iterable[str] = ()) -> Ceilings:
    """Both ceilings of a precision, and those of further types of products, in about five seconds.

    The arguments are those of `unet3d.devices.ceilings.measure`. products: of PRECISIONS, what the layers of a network in
    this precision multiply.

    The hardware's is that of loops of ours in a CPU's registers; on a CPU without loops it is left out. A library that is
    faster than a loop shows that the CPU can do more: then that is the hardware's. There are no loops for GPUs: their ceilings
    are the best of the library's large products, which on an H100 reach 73% of the data sheet's.
    """
    library = ceilings.measure(device, precision, threads)
    types = dict.fromkeys((precision, *products))
    found = (_hardware(library, of, threads) for of in types)
    return replace(library, hardware=tuple(rate for rate in found if rate is not None))


def _hardware(library: Ceilings, products: str, threads: int | None) -> Rate | None:
    if not device_class(library.device.partition(":")[0]).is_host:
        of_gpu = ceilings.measure(library.device, products, threads).of(products)
        return of_gpu and replace(of_gpu, how=f"best of {of_gpu.how}, in large calls")
    of_library = library.of(products)
    loop = peak.best(products, threads)
    if loop is not None and of_library is not None and of_library.tflops > loop.tflops:
        return replace(of_library, how=f"{of_library.how}, faster than the loop of {loop.how}")
    return loop


def beside_run(plan: Plan, executed: Mapping[str, float] | None) -> tuple[Ceilings | None, list[RunWarning]]:
    """The ceilings in the run's precision and in the types of products that it executed, measured after the timed calls.

    Only of the benchmark's own volume: small ones, for trying out, are bound by other things than arithmetic. A
    measurement that fails leaves a warning. executed: products by type.
    """
    settings = plan.settings
    if settings.volume_shape != SHAPE:
        return None, []
    try:
        with progress.phase("measuring the machine's ceilings"):
            return measure(plan.device.kind, settings.precision, settings.threads, executed or ()), []
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        return None, [
            RunWarning(
                "no-ceilings",
                f"the machine's best rates could not be measured: {reason}.",
                "./run_model.sh --check measures them alone.",
            )
        ]
