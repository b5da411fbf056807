"""The machine's measured ceilings beside the figures of a run, which the report puts the run's rate on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet3d.results.record import Record


def note(record: Record) -> None:
    """Measure the ceilings in the run's precision, in about three seconds after the timed calls, into `ceilings`.

    Only of the benchmark's own volume: small ones, for trying out, are bound by other things than arithmetic. A
    measurement that fails leaves a warning.
    """
    from unet3d.devices import ceilings
    from unet3d.planning.resolve import STANDARD_SHAPE

    settings = record.settings
    if tuple(settings.volume_shape) != STANDARD_SHAPE:
        return
    try:
        found = ceilings.measure(settings.device.kind, settings.precision, settings.threads)
    except (RuntimeError, MemoryError) as error:
        record.warn(
            "no-ceilings",
            f"the machine's best rates could not be measured: {str(error).partition(chr(10))[0]}.",
            "./run_model.sh --check measures them alone.",
        )
        return
    record.extra["ceilings"] = asdict(found)
