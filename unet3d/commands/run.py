"""One run: its folder, its console, its results, whatever ends it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, cast

from unet3d import caches, signals, streams
from unet3d.devices import host, topology
from unet3d.engines import registry
from unet3d.errors import BenchmarkError, ExitCode, Stopped, UserError, messages_of, of_the_system, shown, tell
from unet3d.files import move_all_aside, prepare_folder, write_atomically
from unet3d.locks import FolderLock
from unet3d.planning import placement
from unet3d.planning.plan import Plan, ask, make
from unet3d.results import advice, document, report
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
    # PyTorch names its own places when it is imported; ranks find ours in their environment.
    caches.share()
    prepare_folder(asked.output_dir, "OUTPUT_DIR")
    if asked.scaling:
        from unet3d.commands import scaling

        return scaling.run(asked, argv)
    plan = make(asked)
    folder = plan.settings.output_dir
    if plan.settings.node_rank:
        prepare_folder(folder, "OUTPUT_DIR")
    with FolderLock(folder, "OUTPUT_DIR") as lock:
        return carry_out(plan, argv, lock)


def carry_out(plan: Plan, argv: Sequence[str], lock: FolderLock) -> int:
    """Run, write results and report, print the summary; returns the exit code.

    lock: of the plan's folder; given free before the process ends early.
    """
    folder = plan.settings.output_dir
    record, out = Record(plan.settings, command=["predict.py", *argv]), Console()
    # Until the results are written; a signal before this one has nothing to lose.
    signals.by_exception()
    moved: list[Path] = []
    try:
        # Before this process is bound to some of its cores.
        record.environment["hardware"] = host.hardware()
        moved = move_all_aside(folder, document.FILES)
        out.open_log(folder / "output_raw.log")
        if moved:
            out.line(f"Earlier results in {shown(folder)} were renamed: {', '.join(path.name for path in moved)}")
        out.introduce(plan.settings)
        for warning in advice.misspelt(os.environ):
            record.warn(warning)
            out.warning(warning)
        registry.engine_class(plan.settings.engine).begin()
        in_thread(_work(plan, record, out))
        record.finish()
        signals.not_at_all()
    except (Exception, Stopped) as error:  # noqa: BLE001 - the last line of defence: a user never sees a traceback
        reason, code = why(error, folder)
        _end_early(record, out, reason, code, lock)
    if plan.settings.node_rank:
        out.line(f"The results of all nodes are in node 0's OUTPUT_DIR; this node's log is in {shown(folder)}")
        out.close()
        return ExitCode.DONE
    complete = _tell(record, out, folder, moved)
    out.close()
    return ExitCode.DONE if complete else ExitCode.NOT_ALL


def why(error: BaseException, folder: Path) -> tuple[str, int]:
    """Why a run ends early, told where it has to be, and its exit code."""
    signals.not_at_all()
    if isinstance(error, Stopped):
        return f"stopped by {error.name}", error.exit_code
    if isinstance(error, BrokenPipeError):
        return "who read the output has closed it", ExitCode.PIPE_CLOSED
    known = error if isinstance(error, BenchmarkError) else of_the_system(error)
    if known is not None:
        return "; ".join(messages_of(known)), tell(known)
    path = folder / "traceback.log"
    with contextlib.suppress(UserError):
        write_atomically(path, "".join(traceback.format_exception(error)))
    first = str(error).strip().partition("\n")[0]
    print(
        f"ERROR: unexpected {type(error).__name__}: {shown(first)}; this is a defect or a broken "
        f"installation, please report it with {shown(path)}",
        file=sys.stderr,
    )
    return f"unexpected {type(error).__name__}", ExitCode.DEFECT


def _work(plan: Plan, record: Record, out: Console) -> Callable[[], None]:
    """What this process has to do: the run itself, bound to where it runs best, or to start ranks that do it."""
    if plan.needs_ranks:
        from unet3d.ranks import launch

        return lambda: launch.run(plan, record, out, TASK)
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

    def alone() -> None:
        # Imported by the thread that works: a signal is an exception in the main thread, and none must fall into an import.
        from unet3d.measure import run

        run.run(plan, record, out)

    return alone


def _tell(record: Record, out: Console, folder: Path, moved: Sequence[Path]) -> bool:
    """Write results and report and print the summary; returns whether the results are complete.

    moved: files of an earlier run in the folder, by their new names.
    """
    # Only now: reading what an earlier run left, and comparing, is no part of a run's start.
    from unet3d.commands import verdict

    with out.phase("drawing the report"):
        results = _report(record, document.write(record, folder), folder)
    for warning in record.warnings:
        out.warning(warning)
    if stats := document.statistics(record):
        for line in summary(record, stats):
            out.info(line)
    if sentence := verdict.verdict(cast(Results, results), verdict.last_run(moved)):
        out.info(sentence)
    names = [name for name in ("results.yaml", "results.json", "report.html") if (folder / name).exists()]
    out.line(f"Results: {', '.join(str(folder / name) for name in names)}")
    return bool(results["complete"])


def _report(record: Record, results: Document, folder: Path) -> Document:
    """Draw report.html of the written results; what goes wrong costs a warning, never the results."""
    try:
        # The results are there: a signal costs the report at most.
        signals.by_exception()
        report.write(results, folder)
        signals.not_at_all()
    except (Exception, Stopped) as error:  # noqa: BLE001 - the results are complete, whatever becomes of the picture
        signals.not_at_all()
        reason = shown(str(error).partition("\n")[0]) or getattr(error, "name", type(error).__name__)
        record.warn(RunWarning("no-report", f"report.html could not be drawn: {reason}.", f"./run_model.sh report {folder}"))
        with contextlib.suppress(UserError):
            return document.write(record, folder)
    return results


def in_thread(work: Callable[[], None]) -> None:
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


def _end_early(record: Record, out: Console, reason: str, code: int, lock: FolderLock) -> NoReturn:
    """Write what there is, marked incomplete, and leave without waiting for the inference in progress.

    The report is drawn last: whoever does not want to wait for it sends another signal.
    """
    record.finish(reason)
    folder = record.settings.output_dir
    results: Document = {}
    with contextlib.suppress(UserError):
        results = document.write(record, folder)
    signals.end_children()
    out.end()
    with contextlib.suppress(BrokenPipeError):
        out.line(
            f"INCOMPLETE: {shown(reason, 1000)}; {len(record.samples)} of "
            f"{record.planned_calls or record.settings.num_iterations} calls are in {shown(folder / 'results.json')}"
        )
        if results and record.samples:
            _limit_report(code, lock)
            _report(record, results, folder)
            out.line(f"Report: {shown(folder / report.FILE)}")
    out.close()
    leave(code, lock)


def _limit_report(code: int, lock: FolderLock) -> None:
    """After SIGTERM the report has some seconds: `docker stop` kills after ten, which would hide the exit code."""
    if code == ExitCode.TERMINATED:
        limit = threading.Timer(REPORT_S, leave, [code, lock])
        limit.daemon = True
        limit.start()


def leave(code: int, lock: FolderLock) -> NoReturn:
    streams.finish(code)
    caches.remove_temporary()
    lock.release()
    os._exit(code)
