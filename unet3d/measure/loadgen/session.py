"""What both modes of LoadGen share: its settings, its logs' folder, and how a run is named."""

from __future__ import annotations

import importlib.metadata
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet3d.config.values import Settings
from unet3d.errors import UserError
from unet3d.files import move_aside, prepare_folder
from unet3d.planning import mlperf
from unet3d.planning.mlperf import SINGLE_STREAM, LoadGenRun
from unet3d.results.facts import Told
from unet3d.results.record import Section

FOLDER = "loadgen"


@dataclass(frozen=True)
class LoadGenResult:
    """LoadGen's part of results.json and what it adds to the others."""

    section: Section
    told: Told


def version() -> str:
    """Of the installed package."""
    return importlib.metadata.version("mlcommons-loadgen")


def log_folder(output_dir: Path, mode: str) -> Path:
    """OUTPUT_DIR/loadgen/<mode>, empty; logs of an earlier run are renamed with their results.

    Raises:
        UserError: when that is not possible.
    """
    folder = output_dir / FOLDER / mode
    try:
        move_aside(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be renamed ({error.strerror}); name another folder with OUTPUT_DIR") from None
    prepare_folder(folder, "OUTPUT_DIR")
    return folder


def need_disk(folder: Path, cases: int, shape: tuple[int, ...]) -> None:
    """See that an accuracy log fits on the disk.

    Raises:
        UserError: with what it needs.
    """
    # Two hexadecimal digits for each byte of float16 logits of 4 classes.
    needed = cases * 2 * 2 * 4 * int(np.prod(shape))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: LoadGen's accuracy log of {cases} cases needs {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; free some space, name another folder with OUTPUT_DIR, or lower "
            "NUM_IMAGES"
        )


def test_settings(plan: LoadGenRun, mode: str, expected_s: float, settings: Settings) -> Any:
    """LoadGen's TestSettings. expected_s: seconds of one call."""
    import mlperf_loadgen as lg

    chosen = lg.TestSettings()
    chosen.scenario = getattr(lg.TestScenario, plan.scenario)
    chosen.mode = getattr(lg.TestMode, mode)
    chosen.min_query_count = plan.queries
    chosen.min_duration_ms = 1000 * plan.duration_s
    if plan.limited and plan.scenario == SINGLE_STREAM:
        chosen.max_query_count = plan.queries
    chosen.single_stream_target_latency_percentile = mlperf.PERCENTILE
    chosen.single_stream_expected_latency_ns = int(1e9 * expected_s)
    # LoadGen sends 1.1 times what this rate yields in the least duration, so the least duration is reached.
    chosen.offline_expected_qps = settings.batch_size * settings.streams / expected_s
    chosen.performance_sample_count_override = plan.performance_samples
    for name, seed in mlperf.SEEDS.items():
        setattr(chosen, name, seed)
    return chosen
