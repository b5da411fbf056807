"""From the command line to an exit code: every error one line, results valid whatever ends the run."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from unet3d.config import parse, table
from unet3d.errors import BenchmarkError, UserError, UserErrors
from unet3d.files import move_aside, prepare_folder, write_atomically
from unet3d.planning import resolve
from unet3d.results.console import Console, banner, summary

if TYPE_CHECKING:
    from pathlib import Path

    from unet3d.results.record import Record

# What run_model.sh does besides one run: the first argument, with or without dashes, and the module whose `main` does it.
VERBS = {
    "check": "unet3d.commands.check",
    "compare": "unet3d.commands.compare",
    "rank": "unet3d.ranks.rank",
    "report": "unet3d.results.report",
    "sweep": "unet3d.commands.sweep",
}


class Stopped(BaseException):
    """A signal asked the run to end."""

    def __init__(self, number: int):
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code.

    0 done, 2 bad input, 3 something else ran than was asked for, 4 out of memory, 130/143 stopped by a signal,
    70 an error of the benchmark itself (its traceback is in OUTPUT_DIR/traceback.log).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0].removeprefix("--") if argv else ""
    if verb in VERBS:
        return _guarded(lambda: importlib.import_module(VERBS[verb]).main(argv[1:]))
    if "--help" in argv or "-h" in argv:
        return _guarded(lambda: _show(table.help_text("./run_model.sh")))

    def work() -> int:
        given, problems = parse.parse(argv, os.environ)
        problems += resolve.impossible(given)
        if problems:
            raise UserErrors(problems)
        # Kineto prints its own start and stop to standard error otherwise.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        prepare_folder(given["output_dir"].value, "OUTPUT_DIR")
        if given["scaling"].value:
            from unet3d.commands import scaling

            return scaling.run(given, argv)
        settings = resolve.complete(given)
        from unet3d.engines import registry
        from unet3d.measure import run

        # Before earlier results are moved and anything is written: there is nothing to be measured.
        registry.must_run(run.request(settings))
        return _run(settings, argv)

    return _guarded(work)


def preprocess(argv: Sequence[str] | None = None) -> int:
    """Preprocess every case of DATASET_DIR; returns the exit code: 0, 1 when cases are bad, 2 on bad input."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        return _guarded(lambda: _show(table.help_text("./preprocess.sh", ("dataset_dir", "preprocessed_dir"))))

    def work() -> int:
        given, problems = parse.parse(argv, os.environ)
        source, target = given["dataset_dir"].value, given["preprocessed_dir"].value
        if source is None:
            problems.append("DATASET_DIR is not set; name the folder that holds HGG and LGG")
        if problems:
            raise UserErrors(problems)
        from unet3d.brats import dataset, preprocessing

        names = [case.name for case in dataset.find_cases(source)]
        target = target or source / "build" / "preprocessed_data"
        report = preprocessing.preprocess(source, target, names)
        for name, reason in sorted(report.failed.items()):
            print(f"ERROR: {name}: {reason}", file=sys.stderr)
        print(
            f"{len(report.done)} cases preprocessed, {len(report.skipped)} were there already, "
            f"{len(report.failed)} cannot be used; volumes are in {target}"
        )
        return 1 if report.failed else 0

    return _guarded(work)


def _show(text: str) -> int:
    print(text, flush=True)
    return 0


def _guarded(work: Callable[[], int]) -> int:
    """Answer signals and every error in one line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        return work()
    except BenchmarkError as error:
        return _fail(error)
    except Stopped as stop:
        print(f"ERROR: stopped by {stop.name} before anything was measured", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has enough; closing it would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("UNET3D_TRACEBACK"):
            raise
        print(
            f"ERROR: unexpected {type(error).__name__}: {error}; this is a defect or a broken installation, please "
            "report it with what UNET3D_TRACEBACK=1 shows",
            file=sys.stderr,
        )
        return 70


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def _fail(error: BenchmarkError) -> int:
    messages = error.messages if isinstance(error, UserErrors) else [str(error)]
    for message in messages:
        print(f"ERROR: {message}", file=sys.stderr)
    return error.exit_code


def _run(settings: resolve.Settings, argv: Sequence[str]) -> int:
    from unet3d.ranks import launch
    from unet3d.results import document
    from unet3d.results.record import Record

    folder = settings.output_dir
    record = Record(settings, command=["predict.py", *argv])
    out = Console()
    moved = [name for name in document.FILES if move_aside(folder / name)]
    out.open_log(folder / "output_raw.log")
    if moved:
        out.line(f"Earlier results in {folder} were renamed: {', '.join(moved)}")
    out.line(banner(settings))
    if settings.engine == "torch":
        _start_profiler()
    try:
        _in_thread(launch.work(record, out))
        record.finish()
    except Stopped as stop:
        return _end_early(record, out, f"stopped by {stop.name}", stop.exit_code)
    except BenchmarkError as error:
        code = _fail(error)
        return _end_early(record, out, str(error), code)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a user never sees a traceback
        return _unexpected(record, out, error)
    if settings.node_rank:
        out.line(f"The results of all nodes are in node 0's OUTPUT_DIR; this node's log is in {folder}")
        out.close()
        return 0
    doc = _report(record, document.write(record, folder), folder)
    for warning in record.warnings:
        out.warning(warning)
    for line in summary(record, document.statistics(record)):
        out.info(line)
    names = [name for name in ("results.yaml", "results.json", "report.html") if (folder / name).exists()]
    out.line(f"Results: {', '.join(str(folder / name) for name in names)}")
    out.close()
    return 0 if doc["complete"] else 1


def _report(record: Record, doc: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Draw report.html of the written results; what goes wrong costs a warning, never the results."""
    from unet3d.results import document, report

    try:
        report.write(doc, folder)
    except (Exception, Stopped) as error:  # noqa: BLE001 - the results are complete, whatever becomes of the picture
        reason = str(error).partition("\n")[0] or getattr(error, "name", type(error).__name__)
        record.warn("no-report", f"report.html could not be drawn: {reason}.", f"./run_model.sh report {folder}")
        with contextlib.suppress(UserError):
            return document.write(record, folder)
    return doc


def _start_profiler() -> None:
    """Use PyTorch's profiler once on this thread: it complains on every run if its first use is on another."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        pass


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
    thread.join()
    if failure:
        raise failure[0]


def _end_early(record: object, out: Console, reason: str, code: int) -> int:
    """Write what there is, marked incomplete, and leave without waiting for the inference in progress."""
    from unet3d.results import document

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    record.finish(reason)
    with contextlib.suppress(UserError):
        document.write(record, record.settings.output_dir)
    out.line(
        f"INCOMPLETE: {reason}; {len(record.samples)} of {record.planned_calls or record.settings.num_iterations} "
        f"calls are in {record.settings.output_dir / 'results.json'}"
    )
    out.close()
    _end_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _unexpected(record: object, out: Console, error: Exception) -> int:
    text = "".join(traceback.format_exception(error))
    path = record.settings.output_dir / "traceback.log"
    with contextlib.suppress(UserError):
        write_atomically(path, text)
    first = str(error).strip().splitlines()
    print(
        f"ERROR: unexpected {type(error).__name__}: {first[0] if first else ''}; this is a defect or a broken "
        f"installation, please report it with {path}",
        file=sys.stderr,
    )
    return _end_early(record, out, f"unexpected {type(error).__name__}", 70)


def _end_children() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
