"""How near a run came to the machine's ceiling, from its document: the one place that decides which FLOP are over which."""

from __future__ import annotations

from dataclasses import dataclass

from unet3d.devices.ceilings import EXCESS, HARDWARE, LIBRARY, Ceilings, Rate
from unet3d.results import schema
from unet3d.results.schema import Results


@dataclass(frozen=True)
class Reached:
    """A run's rate and the ceiling that it is held against, in 1e12 FLOP a second.

    Executed FLOP are those of the products that ran. A run whose products are of several types is held against the rate at
    which the hardware would compute that mixture.
    """

    tflops: float
    ceiling: float
    whose: str  # HARDWARE where all of the ceiling is the hardware's, else LIBRARY
    executed: float | None  # 1e12 FLOP of a volume; None in results of an older version, whose rate is the nominal one
    nominal: float  # the same, of the network's direct convolutions

    @property
    def share(self) -> float:
        return self.tflops / self.ceiling

    @property
    def name(self) -> str:
        return f"{self.whose} ceiling"

    @property
    def sentence(self) -> str:
        """The share in words; one above 100% with its reason."""
        if self.executed is None:
            if self.share > 1:
                return f"{self.share:.2f} times this machine's ceiling for direct convolutions, whose FLOP are counted"
            return f"{self.share:.0%} of this machine's ceiling"
        counted = f"{self.executed:.3g} TFLOP executed per volume of {self.nominal:.3g} nominal"
        if self.share <= 1:
            return f"{self.share:.0%} of the {self.name} ({counted})"
        return f"{self.share:.2f} times the {self.name} ({counted}): {self.excess}"

    @property
    def excess(self) -> str:
        """Why a rate can be above this ceiling; empty where it is not."""
        if self.share <= 1:
            return ""
        if self.executed is None:
            return "an algorithm such as Winograd's saved products that are counted"
        return EXCESS[self.whose]


def notes(doc: Results) -> list[str]:
    """What the figure of `of` is of, a sentence each; empty where there is none."""
    run, measured = of(doc), doc.get("ceilings")
    if run is None or measured is None:
        return []
    told = []
    if run.executed is None:
        told.append(
            f"The ceiling is the best rate of a library's product ({measured['matmul_how']}, {measured['precision']}); "
            "the run's rate counts direct convolutions' FLOP."
        )
    else:
        parts = ", ".join(f"{tflop:.3g} in {products}" for products, tflop in measured.get("executed_tflop", {}).items())
        told.append(
            f"A volume took {run.executed:.3g} TFLOP of products ({parts}), which the share counts. TFLOP/s elsewhere are "
            f"nominal: of {run.nominal:.3g} TFLOP per volume, as direct convolutions have."
        )
        top = _measured(measured)
        listed = {rate.products: top.whose(rate.products) for rate in top.hardware}
        for rate in top.hardware:
            told.append(
                f"{listed[rate.products].capitalize()} ceiling of {rate.products}: {rate.tflops:.3g} TFLOP/s ({rate.how})."
            )
        if top.matmul_tflops and listed.get(top.precision) != LIBRARY:
            told.append(f"Library ceiling of {top.precision}: {top.matmul_tflops:.3g} TFLOP/s ({top.matmul_how}).")
        told.append("Ceilings are measured on this machine after the run, not a data sheet's.")
    if run.excess:
        told.append(f"Above 100%: {run.excess}.")
    return told


def of(doc: Results) -> Reached | None:
    """None where nothing was measured, or no ceiling is known."""
    measured, stats = doc.get("ceilings"), doc["statistics"]
    if not measured or not stats:
        return None
    nominal = doc["volume"]["tflop"]
    executed, matmul = measured.get("executed_tflop"), measured["matmul_tflops"]
    if not executed:
        if not matmul:
            return None
        return Reached(stats["tflops"], matmul, LIBRARY, None, nominal)
    top = _measured(measured)
    seconds = top.seconds(executed)
    if not seconds:
        return None
    total = sum(executed.values())
    return Reached(
        tflops=total * stats["throughput"],
        ceiling=total / seconds,
        whose=HARDWARE if all(top.whose(products) == HARDWARE for products in executed) else LIBRARY,
        executed=total,
        nominal=nominal,
    )


def _measured(told: schema.Ceilings) -> Ceilings:
    """A document's ceilings as they were measured."""
    return Ceilings(
        told["device"],
        told["precision"],
        told["threads"],
        told["matmul_tflops"],
        told["copy_gbs"],
        told["matmul_how"],
        tuple(Rate(rate["products"], rate["tflops"], rate["how"]) for rate in told.get("hardware", ())),
    )
