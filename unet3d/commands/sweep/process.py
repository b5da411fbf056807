"""One configuration in a process of its own: predict.py with its own output folder, and what became of it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from unet3d import places, signals
from unet3d.errors import UserError
from unet3d.files import move_all_aside, prepare_folder
from unet3d.results import reader
from unet3d.results.schema import Results

CONSOLE = "console.log"
STOP_SECONDS = 60


def time_limit_of(text: str) -> float | None:
    """Seconds of a number of minutes above 0; None for any other text."""
    try:
        minutes = float(text)
    except ValueError:
        return None
    return 60 * minutes if 0 < minutes < math.inf else None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its results.json where it is complete, else the reason in one line."""

    seconds: float
    exit_code: int | None
    document: Results | None
    reason: str | None


def run(
    words: Sequence[str],
    folder: Path,
    *,
    python: str | Path = sys.executable,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    time_limit: float | None = None,
) -> Outcome:
    """Run predict.py with these flags in a fresh process; its console goes to `folder`/console.log.

    `prefix` are words put before the interpreter, `time_limit` is in seconds. When the caller is interrupted the process
    is asked to stop, so that it leaves valid results, and the interruption goes on. So it is when the caller is killed and the
    prefix does not stay beside the process.

    Raises:
        UserError: when the folder cannot be written to.
    """
    prepare_folder(folder, "OUTPUT_DIR")
    # A run that fails before it renames them would leave an earlier run's figures to be taken for its own.
    move_all_aside(folder, ["results.json", CONSOLE])
    command = [*prefix, str(python), *places.command()[1:], *words, "--output-dir", str(folder)]
    started = monotonic()
    with open(folder / CONSOLE, "w", encoding="utf-8") as console:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=signals.of_child(os.environ if environ is None else environ),
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(0.0, None, None, f"{command[0]} cannot be started ({error.strerror})")
        try:
            late = _wait(process, started, time_limit)
        except BaseException:
            _stop(process)
            raise
    seconds = monotonic() - started
    if late:
        return Outcome(seconds, process.returncode, None, f"stopped after the time limit of {time_limit:g} s")
    document = complete_results(folder)
    if process.returncode == 0 and document is not None:
        return Outcome(seconds, 0, document, None)
    return Outcome(seconds, process.returncode, None, _reason(process.returncode, folder))


def complete_results(folder: Path) -> Results | None:
    """A folder's results.json if it is there, can be read and is of a run that was finished."""
    try:
        document = reader.read(folder / "results.json")
    except UserError:
        return None
    return document if document["complete"] else None


def _wait(process: subprocess.Popen, started: float, time_limit: float | None) -> bool:
    """Wait for the end; True when the process had to be stopped because its time was up."""
    while True:
        try:
            process.wait(timeout=1)
            return False
        except subprocess.TimeoutExpired:
            if time_limit is not None and monotonic() - started > time_limit:
                _stop(process)
                return True


def _stop(process: subprocess.Popen) -> None:
    """Ask the process and its children to end; kill what has not ended in a minute.

    SIGTERM, since children of a sweep that a shell started in the background ignore SIGINT.
    """
    with signals.ignored():
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            try:
                process.wait(timeout=STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue


def _reason(exit_code: int, folder: Path) -> str:
    """What the run itself said was wrong, else how it ended."""
    lines = (folder / CONSOLE).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    if errors:
        return "; ".join(dict.fromkeys(errors))
    if exit_code < 0:
        name = signals.name_of(-exit_code)
        hint = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}; see {folder / CONSOLE}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")
    return f"exit code {exit_code}: {last}"
