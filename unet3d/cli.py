"""From the command line to a verb and an exit code; every error is one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from unet3d import streams
from unet3d.errors import BenchmarkError, ExitCode, Stopped, of_the_system, shown, tell
from unet3d.version import __version__

RUN = "unet3d.commands.run"
# The first argument, with or without dashes: the module whose `main` does it, and what it does. Without one: a run.
VERBS = {
    "check": ("unet3d.commands.check", "what this machine can run, how fast that should be, what is missing"),
    "preprocess": ("unet3d.commands.preprocess", "prepare every case of DATASET_DIR ahead of runs"),
    "segment": ("unet3d.commands.segment", "segment a case or a data set, from NIfTI to NIfTI, each step timed"),
    "sweep": ("unet3d.commands.sweep", "run many configurations and rank them"),
    "compare": ("unet3d.commands.compare", "is one run faster than another, or is it noise"),
    "report": ("unet3d.commands.report", "draw report.html of a finished run anew"),
    "cache": ("unet3d.commands.cache", "show and clear what is kept between runs"),
}
WIDEST = 110  # characters in a line of --help, however wide the terminal is
# What torchrun starts; not for users.
HIDDEN = {"rank": "unet3d.ranks.rank"}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns an exit code, see `unet3d.errors.ExitCode`."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0].removeprefix("--") if words else ""
    if verb in HIDDEN:
        return guarded(lambda: call(HIDDEN[verb], words[1:]))
    if verb in VERBS:
        return guarded(lambda: call(VERBS[verb][0], words[1:]))
    if "--help" in words or "-h" in words:
        from unet3d import progress
        from unet3d.config import table

        width = min(WIDEST, progress.columns(sys.stdout))
        summaries = {name: summary for name, (_, summary) in VERBS.items()}
        return guarded(lambda: show(table.help_text("./run_model.sh", verbs=summaries, width=width)))
    if verb == "version" or "--version" in words:
        return guarded(lambda: show(f"unet3d {__version__}"))
    return guarded(lambda: call(RUN, words))


def preprocess(argv: Sequence[str] | None = None) -> int:
    """`preprocess.py`: the verb of this name."""
    return main(["preprocess", *(sys.argv[1:] if argv is None else argv)])


def call(module: str, words: Sequence[str]) -> int:
    """A verb's own `main`, whose imports happen now and no sooner."""
    from unet3d.devices import process

    process.must_be_able_to_work()
    return int(importlib.import_module(module).main(words))


def show(text: str) -> int:
    """Print and be done."""
    print(text, flush=True)
    return ExitCode.DONE


def guarded(work: Callable[[], int]) -> int:
    """Answer every error in one line."""
    try:
        return work()
    except BenchmarkError as error:
        return tell(error)
    except Stopped as stop:
        print(f"ERROR: stopped by {stop.name} before anything was measured", file=sys.stderr)
        return stop.exit_code
    except (streams.OutputError, BrokenPipeError) as error:
        return streams.told_of_output(error)
    except Exception as error:
        if os.environ.get("UNET3D_TRACEBACK"):
            raise
        if known := of_the_system(error):
            return tell(known)
        print(
            f"ERROR: unexpected {type(error).__name__}: {shown(error)}; this is a defect or a broken installation, please "
            "report it with what UNET3D_TRACEBACK=1 shows",
            file=sys.stderr,
        )
        return ExitCode.DEFECT
