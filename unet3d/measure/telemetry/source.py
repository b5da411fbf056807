"""What a source of telemetry is. Each opens itself or says in a phrase why it can't; none asks for root.

Metrics are named with their unit: `cpu_utilisation_percent`, `gpu_temperature_c`, `gpu_memory_bytes`, `cpu_clock_mhz`.
"""

from __future__ import annotations

from typing import Protocol


class Source(Protocol):
    """Readings of one kind. `joules` is a counter of all energy since some moment, or None where there is none.

    least_window_s: seconds below which a window is too short for its averages over time, and for its counter.
    """

    name: str
    least_window_s: float

    def read(self) -> dict[str, float]: ...

    def joules(self) -> float | None: ...

    def close(self) -> None: ...


class Absent(Exception):
    """This machine does not offer the source; the text says why."""
