"""The settings as typed values: as the user gave them, and complete.

A test holds both classes against the declaration in `unet3d.config.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unet3d.config.parse import Given
from unet3d.config.settings import SETTINGS

Count = int | Literal["all"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Every setting as the user gave it; None where the machine decides."""

    platform: str | None
    precision: str | None
    engine: str
    onnx_provider: str | None
    jit: str
    network: str
    tune: bool
    ipex: bool | None
    amp: bool
    multi_tile: bool
    devices: Count | None
    instances: int | None
    nnodes: int
    node_rank: int | None
    rdzv_endpoint: str | None
    rank_timeout: int
    scaling: tuple[int, ...] | None
    batch_size: int
    num_iterations: int
    warm_up: int | None
    streams: int
    threads: int | None
    scenario: str
    min_duration: int | None
    compliance: bool
    full_size_check: bool
    telemetry: bool
    profile: bool
    input_on_device: bool
    dummy: bool
    dataset_dir: Path | None
    preprocessed_dir: Path | None
    fold: int
    num_images: Count
    weights: str | None
    seed: int
    volume_shape: tuple[int, int, int]
    output_dir: Path
    save_segmentations: bool
    status_prints: int
    verbose: bool
    sources: Mapping[str, str]  # by setting: flag, variable or default

    @classmethod
    def of(cls, given: Mapping[str, Given]) -> Asked:
        """The values that were parsed."""
        values: dict[str, Any] = {name: item.value for name, item in given.items()}
        return cls(**values, sources={name: item.source for name, item in given.items()})

    def value(self, name: str) -> object:
        """A setting by its name, for code that goes through all of them."""
        return getattr(self, name)

    def values(self) -> dict[str, object]:
        """All settings by name, in the order of their declaration."""
        return {setting.name: self.value(setting.name) for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Settings(Asked):
    """Every setting with the value that is used, and why where the machine decided it."""

    platform: str
    precision: str
    ipex: bool
    devices: int
    instances: int
    threads: int
    weights: str
    reasons: Mapping[str, str]  # by setting, of those that the machine decided
