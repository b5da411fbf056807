"""The machine's measured ceilings beside the figures of a run, which the report puts the run's rate on."""

from __future__ import annotations

from unet3d import progress
from unet3d.devices import ceilings
from unet3d.devices.ceilings import Ceilings
from unet3d.planning.plan import Plan
from unet3d.results.facts import RunWarning
from unet3d.workload import SHAPE


def beside_run(plan: Plan) -> tuple[Ceilings | None, list[RunWarning]]:
    """The ceilings in the run's precision, measured in about three seconds after the timed calls.

    Only of the benchmark's own volume: small ones, for trying out, are bound by other things than arithmetic. A
    measurement that fails leaves a warning.
    """
    settings = plan.settings
    if settings.volume_shape != SHAPE:
        return None, []
    try:
        with progress.phase("measuring the machine's ceilings"):
            return ceilings.measure(plan.device.kind, settings.precision, settings.threads), []
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        return None, [
            RunWarning(
                "no-ceilings",
                f"the machine's best rates could not be measured: {reason}.",
                "./run_model.sh --check measures them alone.",
            )
        ]
