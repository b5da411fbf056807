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
    """Milliseconds of warmed-up calls, one after the other; none where the engine makes the measured ones so too."""
    taken: list[float] = []
    while engine.depth > 1 and (len(taken) < CALLS or sum(taken) < SECONDS):
        taken.append(timed(engine.infer, staged)[1])
    return [1e3 * seconds for seconds in taken]
