"""Latency with nothing beside the call, where the measured calls overlap.

What is brought, labelled and staged for other calls meanwhile shares the device's memory with the network, and a device that
never waits lowers its clock earlier. So a call takes a little longer there than alone, and both latencies are told.
"""

from __future__ import annotations

from typing import Any

from unet3d.engines.base import Engine
from unet3d.measure.loop import timed

# So many calls, and as many as this time has room for.
CALLS, SECONDS = 5, 0.5


def latencies_ms(engine: Engine, staged: Any) -> list[float]:
    """Milliseconds of calls after the measured ones, by the host's clock."""
    taken: list[float] = []
    while len(taken) < CALLS or sum(taken) < SECONDS:
        taken.append(timed(engine.infer, staged)[1])
    return [1e3 * seconds for seconds in taken]
