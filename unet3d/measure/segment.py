"""Whole cases: from four NIfTI files to a written segmentation, each step timed, the steps of several cases beside each other.

What is computed is what a run in accuracy mode computes; nothing preprocessed is read or kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from unet3d import progress
from unet3d.brats import dataset, preprocessing, segmentations
from unet3d.brats.dataset import Case
from unet3d.brats.preprocessing import case as whole_case
from unet3d.brats.preprocessing import nnunet
from unet3d.engines.base import Engine
from unet3d.errors import UserError, shown
from unet3d.measure import pipeline, prepare
from unet3d.measure.loop import timed
from unet3d.planning.group import SingleProcess
from unet3d.planning.plan import Plan
from unet3d.results.console import Console
from unet3d.results.facts import RunWarning
from unet3d.results.record import Record
from unet3d.results.timing import Sample
from unet3d.workload import MODALITIES, input_shape

STEPS = ("read", "preprocess", "stage", "network", "labels", "export")


@dataclass(frozen=True)
class Segmented:
    """A case that was segmented. seconds: of each of STEPS; `total_s`: from the first byte read to the written file, with
    the time in which it waited for others."""

    name: str
    file: Path
    seconds: Mapping[str, float]
    total_s: float


@dataclass
class Outcome:
    """What was segmented so far, what could not be with the reason, and the seconds of all cases together."""

    done: list[Segmented] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    clock_s: float = 0.0


class BadCase(UserError):
    """A case's own files are at fault; the others go on. `index`: its number among those of the pipeline."""

    def __init__(self, index: int, reason: str):
        super().__init__(reason)
        self.index = index


@dataclass
class Ready:
    """What is known of a case that the network takes next."""

    properties: dict[str, Any]
    begin: float
    read_s: float
    preprocess_s: float
    stage_s: float = 0.0


def cases_in(path: Path) -> list[Case]:
    """The case of a folder that holds one's files, or the cases of a data set with HGG and LGG.

    Raises:
        UserError: for a folder that is neither.
    """
    folder = path.absolute()
    single = Case(folder.name, "", folder)
    try:
        if any(image.exists() for image in single.images):
            return [single]
    except (OSError, ValueError) as error:
        raise UserError(f"segment: {shown(path)} cannot be looked at ({shown(error)}); name a case or a data set") from None
    try:
        return dataset.find_cases(path)
    except UserError as error:
        names = ", ".join(f"{shown(folder.name)}_{modality}.nii.gz" for modality in MODALITIES)
        raise UserError(f"segment: {shown(path)} holds no case ({names}), and {error}") from None


def make_engine(plan: Plan, record: Record, out: Console) -> Engine:
    """An engine that is compiled for the cases' shape and was compared with fp32, on a small volume and on one of that shape;
    what it is stands in the record.

    Raises:
        BenchmarkError: as a run does.
    """
    group, settings = SingleProcess(), plan.settings
    network = prepare.load_network(plan, out)
    record.weights, record.tflop_per_volume = network.facts, network.tflop_per_volume
    prepare.need_memory(plan, network.facts.base_features, 1)
    checked = prepare.load_engine(plan, network.reference, out, group)
    record.check, record.effective = checked.agreement, checked.effective
    record.warn(*checked.warnings)
    expected, warnings = prepare.expect_full_size(plan, network, group)
    record.warn(*warnings)
    engine = checked.engine
    with out.phase("compiling for the volume's shape"):
        engine.compile(engine.stage(np.zeros(input_shape(1, settings.volume_shape), np.float32)))
    record.full_size_check, _, warnings = prepare.check_full_size(plan, checked, out, group, expected)
    record.warn(*warnings)
    record.load_seconds = dict(engine.load_seconds)
    record.warn(*(RunWarning(name, text) for name, text in engine.warnings))
    return engine


def segment(
    engine: Engine, plan: Plan, cases: Sequence[Case], folder: Path, outcome: Outcome, told: Callable[[], None]
) -> None:
    """Segment the cases in their order into `folder`, a file a case; what there is so far is in `outcome`.

    told: is called after each case.

    Raises:
        UserError: when segmentations cannot be written. A case whose files are bad is noted, and the others go on.
    """
    shape, threads = plan.settings.volume_shape, plan.settings.threads
    nnunet.import_libraries()
    first, begin = 0, perf_counter()
    with progress.phase("segmenting", len(cases), "cases") as phase:

        def read(index: int) -> tuple[int, np.ndarray]:
            about[index], array = _ready(index, cases[first + index], shape, threads)
            return index, array[None]

        def stage(given: tuple[int, np.ndarray], slot: int) -> Any:
            index, volumes = given
            staged, about[index].stage_s = timed(engine.stage, volumes, slot)
            return staged

        def hand_on(index: int, sample: Sample, labels: np.ndarray) -> None:
            case = cases[first + index]
            outcome.done.append(_exported(case, about.pop(index), sample, labels[0], folder))
            outcome.clock_s = perf_counter() - begin
            phase.advance()
            told()

        about: dict[int, Ready] = {}
        while first < len(cases):
            try:
                pipeline.run(engine, len(cases) - first, read, hand_on, stage=stage, beside=True)
                return
            except BadCase as error:
                outcome.failed[cases[first + error.index].name] = str(error)
                phase.advance()
                told()
                about.clear()
                first += error.index + 1


def _ready(index: int, case: Case, shape: Sequence[int], threads: int) -> tuple[Ready, np.ndarray]:
    """Read and preprocess a case, its files at the same time: what is known of it, and its padded volume [4, z, y, x].

    Raises:
        BadCase: with what is wrong with it.
    """
    begin = perf_counter()
    try:
        scan = whole_case.read(case, truth=False, threads=min(threads, len(MODALITIES)))
        middle = perf_counter()
        volume = whole_case.process(scan, shape)
        array = preprocessing.pad(volume.array, shape)
    except UserError as error:
        raise BadCase(index, str(error)) from None
    except OSError as error:
        raise BadCase(index, f"cannot be read: {error.strerror} ({shown(error.filename)})") from None
    except MemoryError:
        raise BadCase(index, "it needs more memory than there is") from None
    return Ready(volume.properties, begin, middle - begin, perf_counter() - middle), array


def _exported(case: Case, ready: Ready, sample: Sample, labels: np.ndarray, folder: Path) -> Segmented:
    begin, file = perf_counter(), folder / f"{case.name}.nii.gz"
    segmentations.save(file, preprocessing.restore(labels, ready.properties), ready.properties)
    end = perf_counter()
    seconds = (ready.read_s, ready.preprocess_s, ready.stage_s, sample.latency, sample.post, end - begin)
    return Segmented(case.name, file, dict(zip(STEPS, seconds, strict=True)), end - ready.begin)


def document(outcome: Outcome) -> dict[str, Any]:
    """What segment.json holds of the cases: each one's seconds by step, means, and cases per second of the whole."""
    done = list(outcome.done)  # another thread may add to them
    means = {step: float(np.mean([case.seconds[step] for case in done])) for step in STEPS} if done else {}
    return {
        "cases": [{**asdict(case), "file": case.file.name} for case in done],
        "failed": dict(outcome.failed),
        "mean_s": means,
        "mean_total_s": float(np.mean([case.total_s for case in done])) if done else None,
        "clock_s": outcome.clock_s,
        "cases_per_s": len(done) / outcome.clock_s if done else None,
    }


def rows(outcome: Outcome) -> list[list[str]]:
    """Cells of a table: a case a row, seconds in all and of each of STEPS."""
    return [
        [case.name, *(f"{seconds:.3f}" for seconds in (case.total_s, *(case.seconds[step] for step in STEPS)))]
        for case in outcome.done
    ]
