"""What is known of a run while it goes on: the one thing that results, report and console are made from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from unet3d.results.timing import Sample


@dataclass(frozen=True)
class Warning:
    """Something that makes a number less trustworthy, and what to do about it."""

    name: str
    message: str
    remedy: str = ""


@dataclass
class Record:
    """Filled in step by step; may be written at any moment, then `complete` is False."""

    settings: Any
    command: list[str] = field(default_factory=list)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    finished: datetime | None = None
    complete: bool = False
    incomplete_reason: str | None = "still running"
    effective: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    check: dict[str, Any] | None = None
    load_seconds: dict[str, float] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    planned_calls: int = 0
    window_start: float = 0.0  # of the measured window, on this machine's monotonic clock in seconds
    samples: list[Sample] = field(default_factory=list)
    accuracy: dict[str, Any] | None = None
    tflop_per_volume: float = 0.0
    memory: dict[str, int | None] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    figures: list[tuple[str, Any, str]] = field(default_factory=list)  # (key, value, unit): further rows of results.yaml
    warnings: list[Warning] = field(default_factory=list)
    # What has to be done before the record is written for the last time, however the run ends.
    at_end: list[Callable[[], object]] = field(default_factory=list)

    def warn(self, name: str, message: str, remedy: str = "") -> None:
        """Note a warning once."""
        if all(warning.name != name or warning.message != message for warning in self.warnings):
            self.warnings.append(Warning(name, message, remedy))

    def finish(self, reason: str | None = None) -> None:
        """Close the record: complete, or incomplete for a reason."""
        self.finished = datetime.now(UTC)
        self.complete, self.incomplete_reason = reason is None, reason
        while self.at_end:
            with contextlib.suppress(Exception):
                self.at_end.pop()()
