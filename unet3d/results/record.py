"""What is known of a run while it goes on: the one thing that results, report and console are made from.

Steps return values; who carries the run out puts them here: `unet3d.measure.run`, `unet3d.ranks`, and
`unet3d.commands.run` what belongs to the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from unet3d.config.values import Settings
from unet3d.devices.ceilings import Ceilings
from unet3d.devices.cpu_time import Disturbance
from unet3d.engines.base import Effective
from unet3d.errors import shown
from unet3d.results.facts import Agreement, Bound, Dice, Figure, PeakMemory, RunWarning, VolumesFacts, WarmUpFacts, WeightsFacts
from unet3d.results.timing import Sample

Section = dict[str, Any]  # a part of results.json as it is written


@dataclass
class Record:
    """Filled in step by step; may be written at any moment, then `complete` is False."""

    settings: Settings
    command: list[str] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=monotonic)  # on this machine's monotonic clock in seconds
    finished: datetime | None = None
    complete: bool = False
    incomplete_reason: str | None = "still running"
    environment: Section = field(default_factory=dict)
    weights: WeightsFacts | None = None
    tflop_per_volume: float = 0.0
    data: VolumesFacts | None = None
    check: Agreement | None = None
    full_size_check: Agreement | None = None
    effective: Effective | None = None
    load_seconds: dict[str, float] = field(default_factory=dict)
    warm_up: WarmUpFacts | None = None
    one_at_a_time_ms: list[float] = field(default_factory=list)  # latencies without others, of a run whose calls overlap
    planned_calls: int = 0
    window_start: float = 0.0  # of the measured window, on this machine's monotonic clock in seconds
    samples: list[Sample] = field(default_factory=list)
    accuracy: Dice | None = None
    memory: PeakMemory | None = None
    ranks: list[Section] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)
    placement: Bound | None = None
    pool: Section | None = None
    loadgen: Section | None = None
    compliance: Section | None = None
    telemetry: Section | None = None
    disturbance: Disturbance | None = None
    ceilings: Ceilings | None = None
    executed_tflop: dict[str, float] = field(default_factory=dict)  # of a volume, 1e12 FLOP by the type of the products
    profile: list[Section] | None = None
    # What has to be done before the record is written for the last time, however the run ends.
    at_end: list[Callable[[], object]] = field(default_factory=list)

    def warn(self, *warnings: RunWarning) -> None:
        """Note each warning once."""
        for warning in warnings:
            if all((known.name, known.message) != (warning.name, warning.message) for known in self.warnings):
                self.warnings.append(warning)

    def finish(self, reason: str | None = None) -> None:
        """Close the record: complete, or incomplete for a reason."""
        # Not read from the clock on the wall, which may have been set back meanwhile.
        self.finished = self.started + timedelta(seconds=monotonic() - self.began)
        self.complete, self.incomplete_reason = reason is None, reason
        while self.at_end:
            try:
                self.at_end.pop()()
            except Exception as error:  # noqa: BLE001 - what is known is written in any case
                self.complete = False
                told = f"at the end {type(error).__name__}: {shown(error)}"
                self.incomplete_reason = f"{self.incomplete_reason}; {told}" if self.incomplete_reason else told
