"""Runs of predict.py in fresh processes, kept in folders so that the same command goes on where it was stopped."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Contestant
from unet3d import json_files
from unet3d.commands.sweep import process
from unet3d.errors import BenchmarkError, UserError, tell
from unet3d.results.schema import Results

OUTCOME = "outcome.json"
LARGEST_OUTCOME = 2**20  # bytes


@dataclass(frozen=True)
class Ended:
    """How a run ended: its results.json, or the reason why there is none; `seconds` of the whole process."""

    document: Results | None
    reason: str | None
    seconds: float = 0.0


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`; errors are a line each and exit code 2, a signal ends the run in progress and gives 130."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return work()
    except BenchmarkError as error:
        return tell(error)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: object) -> None:
    """Ends the run in progress too, whichever signal came and also where a shell's background made SIGINT ignored."""
    raise KeyboardInterrupt


# On a GPU there is a compiler that tries out every form, which may come to no end.
GPU_MINUTES = "15"


def count(text: str, least: int = 1) -> int:
    """A whole number of at least `least`, for argparse."""
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use a whole number of at least {least}")
    return int(text)


def minutes(text: str) -> float:
    """A number of minutes above 0 in seconds, for argparse."""
    seconds = process.time_limit_of(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use a number of minutes above 0")
    return seconds


def make(
    contestant: Contestant, command: Sequence[str], place: Path, limit_s: float | None, prefix: Sequence[str] = ()
) -> Ended:
    """Run predict.py with these flags, its results in `place`, for `limit_s` seconds at most. A failure is kept like a result:
    going on must not try it again and again.

    Raises:
        UserError: when the folder cannot be written to.
    """
    environ = {**os.environ, **contestant.environment}
    outcome = process.run(command, place, python=contestant.python, prefix=prefix, environ=environ, time_limit=limit_s)
    kept = {"command": list(command), "seconds": outcome.seconds, "reason": outcome.reason, "limit_s": limit_s}
    json_files.write(place / OUTCOME, kept)
    return Ended(outcome.document, outcome.reason, outcome.seconds)


def earlier(place: Path, command: Sequence[str], limit_s: float | None) -> Ended | None:
    """How an earlier run of the same command ended; None where there was none, its results are gone, or it was stopped after
    less than `limit_s` seconds."""
    try:
        outcome = json_files.read(place / OUTCOME, LARGEST_OUTCOME, "outcome")
    except UserError:
        return None
    if not isinstance(outcome, dict) or outcome.get("command") != list(command):
        return None
    reason, seconds, had = outcome.get("reason"), outcome.get("seconds", 0.0), outcome.get("limit_s")
    if reason is None:
        document = process.complete_results(place)
        return document and Ended(document, None, seconds)
    if isinstance(had, float) and isinstance(seconds, float) and had <= seconds and (limit_s is None or had < limit_s):
        return None
    return Ended(None, reason, seconds)


def several_commits(commits: Sequence[str], figures: str) -> list[str]:
    """Lines of a table whose runs are not of one state of the code; `figures`: what should not be used then."""
    if len(commits) < 2:
        return []
    return [f"The runs are of several commits: make them again with `--fresh` before using the {figures}.", ""]
