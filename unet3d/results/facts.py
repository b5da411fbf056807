"""What the steps of a run give back: the typed parts of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Scores = Mapping[str, float | None]  # Dice by region; None where it is undefined
Figure = tuple[str, float | str | None, str]  # key, value, unit: a further row of results.yaml


@dataclass(frozen=True)
class RunWarning:
    """Something that makes a number less trustworthy, and what to do about it."""

    name: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class WeightsFacts:
    """The weights that were loaded, and the network that they are of."""

    kind: str  # mlperf, sample, random or custom
    sha256: str | None
    path: Path | None
    base_features: int
    parameters: int


@dataclass(frozen=True)
class VolumesFacts:
    """What the volumes are: random ones have a seed and a distribution, a data set's cases the rest."""

    kind: str
    seed: int | None = None
    distribution: str | None = None
    path: Path | None = None
    fold: int | None = None
    cases: Sequence[str] | None = None
    standard_names: bool | None = None  # all cases of that fold of BraTS 2019, by name
    preprocessed_dir: Path | None = None
    names_sha256: str | None = None


@dataclass(frozen=True)
class Agreement:
    """How far the logits are from fp32 (norm of the difference over norm), and the share of voxels with the same label."""

    shape: tuple[int, ...]
    relative_error: float
    label_agreement: float
    limit: float
    finite: bool


@dataclass(frozen=True)
class WarmUpFacts:
    """The calls before the timed ones; `settled` is False where their times never agreed."""

    calls: int
    rule: str
    settled: bool
    latency_ms: Sequence[float]


@dataclass(frozen=True)
class PeakMemory:
    """Most memory in use at one time; None where the device has none of its own."""

    peak_host_bytes: int
    peak_device_bytes: int | None


@dataclass(frozen=True)
class Fp32Dice:
    """Dice of nnU-Net's fp32 network on the same cases, and how much of it was lost, relative to it."""

    means: Scores
    total: float | None
    cases: Mapping[str, Scores]
    relative_loss: Scores


@dataclass(frozen=True)
class Dice:
    """Mean Dice of each region over the cases, their mean, the number of undefined values, and each case's."""

    means: Scores
    total: float | None
    undefined: Mapping[str, int]
    cases: Mapping[str, Scores]
    fp32: Fp32Dice | None = None

    def of(self, region: str) -> float | None:
        """Mean Dice of WT, TC or ET, or of all three by the name of total."""
        return self.total if region == "total" else self.means[region]


@dataclass(frozen=True)
class Bound:
    """What a process was bound to, as results tell it; `memory_not_bound` says why memory could not be."""

    name: str
    threads: int
    cpus: str | None
    memory_nodes: str | None
    memory_not_bound: str | None
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Told:
    """What a step adds to a run's results beside its own section."""

    figures: Sequence[Figure] = field(default_factory=tuple)
    warnings: Sequence[RunWarning] = field(default_factory=tuple)
