"""One run: its folder, its console, its results, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from unet3d.commands import verdict
from unet3d.commands.compare.runs import Side
from unet3d.devices import topology
from unet3d.engines import registry
from unet3d.errors import BenchmarkError, ExitCode, Stopped, UserError, tell
from unet3d.files import move_aside, prepare_folder, write_atomically
from unet3d.planning import placement
from unet3d.planning.plan import Plan, ask, make
from unet3d.results import document, report
from unet3d.results.console import Console, summary
from unet3d.results.document import Document
from unet3d.results.facts import RunWarning
from unet3d.results.record import Record
from unet3d.results.schema import Results

# What each of several ranks does: `unet3d.measure.run.run`, by name since processes of their own look it up.
TASK = "unet3d.measure.run:run"

WAKE_S = 0.5  # a signal is answered within this time
REPORT_S = 8  # of a run that was told to end


def main(argv: Sequence[str]) -> int:
    """Plan and carry out the run that flags and variables describe, or with SCALING several.

    Raises:
        UserErrors: everything that is wrong with them, a line each, before anything is written.
    """
    asked = ask(argv, os.environ)
    # Kineto prints its own start and stop to standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    prepare_folder(asked.output_dir, "OUTPUT_DIR")
    if asked.scaling:
        from unet3d.commands import scaling

        return scaling.run(asked, argv)
    plan = make(asked)
    if plan.settings.node_rank:
        prepare_folder(plan.settings.output_dir, "OUTPUT_DIR")
    return carry_out(plan, argv)


def carry_out(plan: Plan, argv: Sequence[str]) -> int:
    """Run, write results and report, print the summary; returns the exit code."""
    folder = plan.settings.output_dir
    record, out = Record(plan.settings, command=["predict.py", *argv]), Console()
    last = verdict.last_run(folder)
    moved = [name for name in document.FILES if move_aside(folder / name)]
    out.open_log(folder / "output_raw.log")
    if moved:
        out.line(f"Earlier results in {folder} were renamed: {', '.join(moved)}")
    out.introduce(plan.settings)
    registry.engine_class(plan.settings.engine).begin()
    try:
        _in_thread(_work(plan, record, out))
        record.finish()
    except Stopped as stop:
        _end_early(record, out, f"stopped by {stop.name}", stop.exit_code)
    except BenchmarkError as error:
        _end_early(record, out, str(error), tell(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user never sees a traceback
        _unexpected(record, out, error)
    if plan.settings.node_rank:
        out.line(f"The results of all nodes are in node 0's OUTPUT_DIR; this node's log is in {folder}")
        out.close()
        return ExitCode.DONE
    complete = _tell(record, out, folder, last)
    out.close()
    return ExitCode.DONE if complete else ExitCode.NOT_ALL


def _work(plan: Plan, record: Record, out: Console) -> Callable[[], None]:
    """What this process has to do: the run itself, bound to where it runs best, or to start ranks that do it."""
    if plan.needs_ranks:
        from unet3d.ranks import launch

        return lambda: launch.run(plan, record, out, TASK)
    from unet3d.measure import run

    if plan.place:
        # Before PyTorch starts threads, and from the main thread, whose binding the others inherit.
        record.placement = bound = placement.bind(plan.place)
        out.line(f"Bound to {bound.name}")
        if bound.memory_not_bound:
            record.warn(
                RunWarning(
                    "memory-not-bound",
                    f"the process is pinned, but its memory is not bound: {bound.memory_not_bound}.",
                    "Install what is missing, or start the container with the right to do it.",
                )
            )
    elif plan.settings.platform == "CPU" and (nodes := len(topology.by_node(topology.cores()))) > 1:
        record.warn(
            RunWarning(
                "several-numa-nodes",
                f"one process uses the cores of {nodes} NUMA nodes.",
                "MULTI_TILE=True runs one process on each, with its own memory.",
            )
        )
    return lambda: run.run(plan, record, out)


def _tell(record: Record, out: Console, folder: Path, last: Side | None) -> bool:
    """Write results and report and print the summary; returns whether the results are complete."""
    with out.phase("drawing the report"):
        results = _report(record, document.write(record, folder), folder)
    for warning in record.warnings:
        out.warning(warning)
    if stats := document.statistics(record):
        for line in summary(record, stats):
            out.info(line)
    if sentence := verdict.verdict(cast(Results, results), last):
        out.info(sentence)
    names = [name for name in ("results.yaml", "results.json", "report.html") if (folder / name).exists()]
    out.line(f"Results: {', '.join(str(folder / name) for name in names)}")
    return bool(results["complete"])


def _report(record: Record, results: Document, folder: Path) -> Document:
    """Draw report.html of the written results; what goes wrong costs a warning, never the results."""
    try:
        report.write(results, folder)
    except (Exception, Stopped) as error:  # noqa: BLE001 - the results are complete, whatever becomes of the picture
        reason = str(error).partition("\n")[0] or getattr(error, "name", type(error).__name__)
        record.warn(RunWarning("no-report", f"report.html could not be drawn: {reason}.", f"./run_model.sh report {folder}"))
        with contextlib.suppress(UserError):
            return document.write(record, folder)
    return results


def _in_thread(work: Callable[[], None]) -> None:
    """Do the work in a thread of its own, so that this one answers signals at once.

    A signal's handler runs between two instructions of the main thread only; one inference on a CPU can last half a
    minute, longer than `docker stop` waits before it kills.
    """
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed over to the main thread
            failure.append(error)

    thread = threading.Thread(target=guarded, name="benchmark", daemon=True)
    thread.start()
    # The kernel may give a signal to any thread, which does not wake this one: without an end to the wait it would be
    # answered only after the last inference.
    while thread.is_alive():
        thread.join(WAKE_S)
    if failure:
        raise failure[0]


def _end_early(record: Record, out: Console, reason: str, code: int) -> None:
    """Write what there is, marked incomplete, and leave without waiting for the inference in progress.

    The report is drawn last: whoever does not want to wait for it sends another signal.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    record.finish(reason)
    folder = record.settings.output_dir
    results: Document = {}
    with contextlib.suppress(UserError):
        results = document.write(record, folder)
    _end_children()
    out.end()
    out.line(
        f"INCOMPLETE: {reason}; {len(record.samples)} of {record.planned_calls or record.settings.num_iterations} "
        f"calls are in {folder / 'results.json'}"
    )
    if results and record.samples:
        _leave_at_once_when(code)
        _report(record, results, folder)
        out.line(f"Report: {folder / report.FILE}")
    out.close()
    _leave(code)


def _leave_at_once_when(code: int) -> None:
    """From here on a signal ends the process, and after SIGTERM also time: `docker stop` kills after ten seconds, which
    would hide the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _leave(code))
    if code == ExitCode.TERMINATED:
        limit = threading.Timer(REPORT_S, _leave, [code])
        limit.daemon = True
        limit.start()


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _unexpected(record: Record, out: Console, error: Exception) -> None:
    path = record.settings.output_dir / "traceback.log"
    with contextlib.suppress(UserError):
        write_atomically(path, "".join(traceback.format_exception(error)))
    first = str(error).strip().partition("\n")[0]
    print(
        f"ERROR: unexpected {type(error).__name__}: {first}; this is a defect or a broken "
        f"installation, please report it with {path}",
        file=sys.stderr,
    )
    _end_early(record, out, f"unexpected {type(error).__name__}", ExitCode.DEFECT)


def _end_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
