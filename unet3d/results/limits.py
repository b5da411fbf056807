"""Which values the keys of `unet3d.results.schema` may have beside their types: kinds of limits, and a run's quantities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Limits:
    """Which numbers are allowed, ends included."""

    least: float
    most: float


@dataclass(frozen=True)
class Pattern:
    """Which texts are allowed: a regular expression that matches all of one."""

    regex: str


@dataclass(frozen=True)
class Length:
    """How many items a list has."""

    least: int
    most: int


@dataclass(frozen=True)
class Keys:
    """Keys that a mapping has besides those that are left open."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """Keys that a mapping may have, with the types of their values, besides those that are left open."""

    types: tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class EmptyUntilKnown:
    """The mapping is empty, or has all of these keys."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Together:
    """Where the mapping has the first key, it has the others too."""

    first: str
    others: tuple[str, ...]


# No clock resolves less than a picosecond, and no run lasts 30 years.
Latency = Annotated[float, Limits(1e-9, 1e12)]  # ms of a call that was made
Milliseconds = Annotated[float, Limits(0, 1e12)]
Seconds = Annotated[float, Limits(0, 1e9)]
Start = Annotated[float, Limits(-1e9, 1e9)]  # seconds; several machines' clocks are put on one
Rate = Annotated[float, Limits(1e-15, 1e15)]
Count = Annotated[int, Limits(0, 2**53)]
AtLeastOne = Annotated[int, Limits(1, 2**53)]
Time = Annotated[str, Pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?\+00:00")]  # UTC
Share = Annotated[float, Limits(0, 1)]
Scores = Annotated[dict[str, Share | None], Keys(("WT", "TC", "ET"))]  # Dice by region; None where it is undefined
Means = Annotated[dict[str, Share | None], Keys(("WT", "TC", "ET", "total"))]
