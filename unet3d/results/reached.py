"""How near a run came to the machine's ceiling, from its document: the one place that decides which FLOP are over which."""

from __future__ import annotations

from dataclasses import dataclass

from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.results.schema import Results


@dataclass(frozen=True)
class Reached:
    """A run's rate and the ceiling that it is held against, in 1e12 FLOP a second.

    Executed FLOP are those of the products that ran. A run whose products are of several types is held against the rate at
    which the hardware would compute that mixture.
    """

    tflops: float
    ceiling: float
    of_hardware: bool  # otherwise the ceiling is a library's
    executed: float | None  # 1e12 FLOP of a volume; None in results of an older version, whose rate is the nominal one
    nominal: float  # the same, of the network's direct convolutions

    @property
    def share(self) -> float:
        return self.tflops / self.ceiling

    @property
    def name(self) -> str:
        return "hardware ceiling" if self.of_hardware else "library ceiling"

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
        if self.of_hardware:
            return "other work slowed the ceiling's measurement after the run"
        return "the library used for it is slower than what ran"


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
        for rate in measured.get("hardware", ()):
            told.append(f"Hardware ceiling of {rate['products']}: {rate['tflops']:.3g} TFLOP/s ({rate['how']}).")
        if matmul := measured["matmul_tflops"]:
            told.append(f"Library ceiling of {measured['precision']}: {matmul:.3g} TFLOP/s ({measured['matmul_how']}).")
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
        return Reached(stats["tflops"], matmul, False, None, nominal)
    ceilings = Ceilings(
        measured["device"],
        measured["precision"],
        measured["threads"],
        matmul,
        measured["copy_gbs"],
        measured["matmul_how"],
        tuple(Rate(rate["products"], rate["tflops"], rate["how"]) for rate in measured.get("hardware", ())),
    )
    seconds = ceilings.seconds(executed)
    if not seconds:
        return None
    total = sum(executed.values())
    rates = [rate for products in executed if (rate := ceilings.of(products))]
    return Reached(
        tflops=total * stats["throughput"],
        ceiling=total / seconds,
        of_hardware=all(rate in ceilings.hardware for rate in rates),
        executed=total,
        nominal=nominal,
    )
