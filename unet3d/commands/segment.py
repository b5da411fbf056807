"""`./run_model.sh segment FOLDER`: segmentations of whole cases, from NIfTI to NIfTI, with the time of each step."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unet3d import caches, columns, json_files, progress, signals
from unet3d.brats.dataset import Case
from unet3d.commands import run
from unet3d.config import table
from unet3d.devices import host, process
from unet3d.engines import registry
from unet3d.errors import ExitCode, Stopped, UserError, UserErrors, shown
from unet3d.files import move_all_aside, prepare_folder
from unet3d.locks import FolderLock
from unet3d.measure import segment
from unet3d.measure.segment import STEPS, Outcome
from unet3d.planning.plan import Plan, ask, make
from unet3d.results import advice, document
from unet3d.results.console import Console
from unet3d.results.facts import RunWarning
from unet3d.results.record import Record

FILE, FOLDER, LOG = "segment.json", "segmentations", "output_raw.log"
USAGE = "./run_model.sh segment CASE_DIR|DATASET_DIR"
SETTINGS = (
    "platform",
    "precision",
    "engine",
    "onnx_provider",
    "jit",
    "network",
    "tune",
    "ipex",
    "amp",
    "threads",
    "weights",
    "full_size_check",
    "input_on_device",
)
HEAD = ("case", "total", *STEPS)
# Written again at most as often while cases end.
EVERY_S = 5.0
_WRITING = threading.Lock()


def main(argv: Sequence[str]) -> int:
    """Segment the cases that the first word names; 1 when some of them could not be.

    Raises:
        UserErrors: for a bad command line, and for settings that cannot run, before anything is written.
        UserError: when there is no case, or the folder is in use or cannot be written to.
    """
    if "--help" in argv or "-h" in argv:
        print(table.help_text(USAGE, (*SETTINGS, "volume_shape", "output_dir", "verbose")))
        return ExitCode.DONE
    if not argv or argv[0].startswith("-") or not argv[0]:
        raise UserError(f"segment: name the folder of a case or of a data set first; {USAGE}")
    asked = ask(argv[1:], os.environ)
    cases = segment.cases_in(Path(argv[0]).expanduser())
    caches.share()
    process.import_torch()
    plan = make(asked)
    if problems := _refused(plan):
        raise UserErrors(problems)
    prepare_folder(asked.output_dir, "OUTPUT_DIR")
    with FolderLock(asked.output_dir, "OUTPUT_DIR") as lock:
        return _carry_out(plan, argv, cases, lock)


def _refused(plan: Plan) -> list[str]:
    """One line for each setting that has no meaning for whole cases."""
    settings = plan.settings
    problems = [
        f"{name.upper()}={settings.value(name)} with segment is not possible, one case goes through the network at a time; "
        f"leave {name.upper()} out"
        for name in ("batch_size", "streams")
        if settings.value(name) != 1
    ]
    if plan.needs_ranks:
        problems.append("segment runs in one process; leave DEVICES, INSTANCES, MULTI_TILE and NNODES out")
    return problems


def _carry_out(plan: Plan, argv: Sequence[str], cases: Sequence[Case], lock: FolderLock) -> int:
    folder = plan.settings.output_dir
    record, out, outcome = Record(plan.settings, command=["predict.py", "segment", *argv]), Console(), Outcome()
    signals.by_exception()
    try:
        moved = move_all_aside(folder, document.FILES)
        out.open_log(folder / LOG)
        if moved:
            out.line(f"Earlier results in {shown(folder)} were renamed: {', '.join(path.name for path in moved)}")
        count, settings = len(cases), plan.settings
        out.line(
            f"Segmenting {count} case{'' if count == 1 else 's'} with {settings.engine} {settings.precision} on "
            f"{settings.platform}; weights: {shown(settings.weights)}"
        )
        for warning in advice.misspelt(os.environ):
            record.warn(warning)
        registry.engine_class(plan.settings.engine).begin()
        record.environment["hardware"] = host.with_device(host.hardware(), plan.device)
        run.in_thread(_work(plan, record, cases, outcome, out))
        record.finish()
        signals.not_at_all()
    except (Exception, Stopped) as error:  # noqa: BLE001 - the last line of defence: a user never sees a traceback
        reason, code = run.why(error, folder)
        record.finish(reason)
        with contextlib.suppress(UserError):
            _write(record, outcome)
        signals.end_children()
        out.end()
        with contextlib.suppress(BrokenPipeError):
            out.line(f"INCOMPLETE: {shown(reason, 1000)}; {len(outcome.done)} of {len(cases)} cases are segmented")
        out.close()
        run.leave(code, lock)
    _write(record, outcome)
    _tell(record, outcome, out)
    out.close()
    return ExitCode.NOT_ALL if outcome.failed else ExitCode.DONE


def _work(plan: Plan, record: Record, cases: Sequence[Case], outcome: Outcome, out: Console) -> Callable[[], None]:
    def work() -> None:
        folder, written = plan.settings.output_dir / FOLDER, time.monotonic()
        prepare_folder(folder, "OUTPUT_DIR")
        with progress.shown_on(out):
            engine = segment.make_engine(plan, record, out)
            if record.weights is not None and record.weights.kind == "random":
                record.warn(
                    RunWarning(
                        "random-weights",
                        "the weights are random: the segmentations mean nothing.",
                        "Run ./setup.sh where Zenodo can be reached, or use WEIGHTS=sample.",
                    )
                )

            def told() -> None:
                nonlocal written
                if time.monotonic() - written >= EVERY_S:
                    _write(record, outcome)
                    written = time.monotonic()

            try:
                segment.segment(engine, plan, cases, folder, outcome, told)
            finally:
                engine.close()

    return work


def _write(record: Record, outcome: Outcome) -> None:
    """Write segment.json of what there is.

    Raises:
        UserError: when the folder cannot be written to.
    """
    # The thread that works must not put "still running" over what a signal has closed meanwhile.
    with _WRITING:
        json_files.write(record.settings.output_dir / FILE, document.plain(_facts(record, outcome)))


def _facts(record: Record, outcome: Outcome) -> dict[str, Any]:
    settings = record.settings
    return {
        "schema_version": 1,
        "complete": record.complete,
        "incomplete_reason": record.incomplete_reason,
        "command": record.command,
        "started": record.started.isoformat(),
        "finished": record.finished and record.finished.isoformat(),
        "settings": {name: settings.value(name) for name in (*SETTINGS, "volume_shape")},
        "effective": record.effective and asdict(record.effective),
        "weights": record.weights and asdict(record.weights),
        "check": record.check and asdict(record.check),
        "full_size_check": record.full_size_check and asdict(record.full_size_check),
        "load_seconds": record.load_seconds,
        "hardware": record.environment.get("hardware"),
        "versions": host.versions(),
        "warnings": [asdict(warning) for warning in record.warnings],
        **segment.document(outcome),
    }


def _tell(record: Record, outcome: Outcome, out: Console) -> None:
    for warning in record.warnings:
        out.warning(warning)
    for name, reason in outcome.failed.items():
        out.line(f"ERROR: {shown(name)}: {shown(reason, 1000)}")
    if outcome.done:
        out.line("Seconds of each step, and from the first byte read to the written file:")
        out.fitted(lambda width: columns.table(HEAD, segment.rows(outcome), width))
        count = len(outcome.done)
        out.info(
            f"{count} cases in {outcome.clock_s:.3g} s: {count / outcome.clock_s:.3g} cases per second, from files to files"
        )
    folder = record.settings.output_dir
    out.line(f"Results: {shown(folder / FOLDER)}, {shown(folder / FILE)}")
