"""The benchmark from Python: `unet3d.run(precision="bf16", num_iterations=3)`.

What it does is what ./run_model.sh does, in this process: `planning.plan` decides, `measure.run` prepares and measures.
The caller's streams and signals are left alone, and the environment is afterwards what it was.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unet3d import caches
from unet3d.config import kinds
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Settings
from unet3d.engines.base import Effective
from unet3d.errors import UserErrors
from unet3d.files import move_all_aside, prepare_folder
from unet3d.locks import FolderLock
from unet3d.planning.plan import ask, make
from unet3d.results import document
from unet3d.results.console import Console
from unet3d.results.document import Document
from unet3d.results.facts import Dice, RunWarning
from unet3d.results.record import Record
from unet3d.results.timing import Sample, Statistics


@dataclass(frozen=True)
class Result:
    """A finished run. `document` is what results.json would hold."""

    settings: Settings
    effective: Effective
    statistics: Statistics  # latencies in ms, throughputs in volumes per second
    samples: tuple[Sample, ...]  # seconds
    dice: Dice | None  # with DUMMY=no
    warnings: tuple[RunWarning, ...]
    document: Document


def run(
    *, output_dir: str | Path | None = None, environ: Mapping[str, str] | None = None, quiet: bool = True, **settings: object
) -> Result:
    """Measure once in this process and return the result.

    settings: as the flags are called (`batch_size=2`, `dummy=False`, `volume_shape=(64, 64, 64)`); what is left out has
    its default. output_dir: where files are written, those of an earlier run are renamed; by default none is written.
    environ: variables to take settings from; by default none. quiet: print nothing.

    Raises:
        UserErrors: settings that are unknown, not allowed or cannot run here, a line each.
        UserError: when `output_dir` cannot be written to, or another run is under way there.
        MismatchError: when something else ran than was asked for, or its output is far from fp32's.
        OutOfMemory: when the device's memory is not enough.
    """
    unknown = [f"{name}: no setting; see unet3d --help for the list" for name in settings if name not in BY_NAME]
    if unknown:
        raise UserErrors(unknown)
    words = [f"{BY_NAME[name].flag}={kinds.show(value)}" for name, value in settings.items() if value is not None]
    with _environment_kept(), tempfile.TemporaryDirectory(prefix="unet3d-") as scratch:
        caches.share()
        from unet3d.measure import run as measuring

        # A run writes now and then what it has so far; nobody looks at it here.
        plan = make(ask([*words, f"--output-dir={scratch if output_dir is None else output_dir}"], environ or {}))
        if plan.needs_ranks:
            raise UserErrors(["DEVICES, INSTANCES and NNODES start processes of their own; use the command line for them"])
        folder = plan.settings.output_dir
        prepare_folder(folder, "OUTPUT_DIR")
        with FolderLock(folder, "OUTPUT_DIR"):
            move_all_aside(folder, document.FILES)
            record = Record(plan.settings, command=["unet3d.run", *words])
            measuring.run(plan, record, Console(stream=io.StringIO() if quiet else None))
            record.finish()
            results = document.write(record, folder)
    statistics, effective = document.statistics(record), record.effective
    assert statistics is not None and effective is not None, "a finished run has measured"
    return Result(plan.settings, effective, statistics, tuple(record.samples), record.accuracy, tuple(record.warnings), results)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Libraries are told by variables where to keep theirs and what to print; the caller's own work is none of that."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
