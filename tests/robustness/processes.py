"""Starts the benchmark's processes in bad surroundings, and says whether what they did is what is promised.

The promises are in docs/faults.md.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMALL = {
    "PLATFORM": "CPU",
    "VOLUME_SHAPE": "64,32,32",
    "WARM_UP": "0",
    "PRECISION": "fp32",
    "JIT": "none",
    "NETWORK": "reference",
    "NUM_ITERATIONS": "2",
    "THREADS": "1",
    "TELEMETRY": "no",
}
# A machine on which everything runs at once may be slow.
PATIENCE_S = 240


@dataclass
class Started:
    """A process and where its output goes."""

    process: subprocess.Popen
    folder: Path

    def ended(self) -> "Ended":
        try:
            out, err = self.process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            return Ended(None, out or "", err or "", self.folder)
        code = self.process.returncode
        return Ended(128 - code if code < 0 else code, out or "", err or "", self.folder)


@dataclass
class Ended:
    """How a process ended, as a shell sees it; code None: it had to be killed."""

    code: int | None
    out: str
    err: str
    folder: Path
    faults: list[str] = field(default_factory=list)

    def expect(self, *codes: int, said: str | None = None, err_lines: int | None = None) -> "Ended":
        """Note what is not as promised; the exit codes that are allowed, words that standard error holds."""
        if self.code not in codes:
            self.faults.append(f"exit code {self.code}, not {' or '.join(map(str, codes))}")
        for word in ("Traceback", "defect", "Exception ignored", "KeyboardInterrupt", "unexpected "):
            if word in self.err:
                self.faults.append(f"{word!r} on standard error")
        for line in self.err.splitlines():
            if (
                not line.isprintable()
                or len(line) > 2100
                or not line.startswith(("ERROR: ", "WARNING[", "setup: ", "shell-init: "))
            ):
                self.faults.append(f"standard error has {line[:100]!r}")
        if said is not None and said not in self.err:
            self.faults.append(f"{said!r} is not on standard error")
        if err_lines is not None and len(self.err.splitlines()) != err_lines:
            self.faults.append(f"{len(self.err.splitlines())} lines on standard error, not {err_lines}")
        if (self.folder / "traceback.log").exists():
            self.faults.append("traceback.log")
        if (self.folder / ".lock").exists():
            self.faults.append("the lock is left")
        for path in self.folder.glob("results*.json"):
            self.document(path)
        return self

    def document(self, path: Path) -> dict:
        """A results.json that is whole, and complete exactly where it says so."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            self.faults.append(f"{path.name} is not whole")
            return {}
        calls = len(document["samples"]["latency_ms"])
        if document["complete"] and calls != int(document["settings"]["requested"]["num_iterations"]):
            self.faults.append(f"{path.name} is complete with {calls} calls")
        return document

    def complete(self) -> "Ended":
        """Note it where there are no complete results."""
        path = self.folder / "results.json"
        if not path.exists() or not self.document(path).get("complete"):
            self.faults.append("no complete results.json")
        return self


def variables(folder: Path, weights: Path, **more: str | None) -> dict[str, str]:
    """The environment of a small run into `folder`; None takes a variable out."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "UNET3D"))}
    own |= {**SMALL, "WEIGHTS": str(weights), "OUTPUT_DIR": str(folder)}
    own |= {name: value for name, value in more.items() if value is not None}
    return {name: value for name, value in own.items() if more.get(name, "") is not None}


def start(words: Sequence[str | Path], folder: Path, environ: dict[str, str], **how) -> Started:
    """Start a command in a group of its own; its output is kept where `how` does not send it elsewhere."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, "cwd": ROOT, **how}
    process = subprocess.Popen(
        [str(word) for word in words], env=environ, text=True, encoding="utf-8", errors="replace", **given
    )
    return Started(process, folder)


def predict(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "predict.py"), *words]


def in_shell(script: str, *words: str) -> list[str]:
    """A command that a shell starts after doing something to itself, such as closing a stream."""
    return ["bash", "-c", f"{script}", "bash", *words]


def signalled(started: Started, number: int, group: bool = True) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(started.process.pid, number)
