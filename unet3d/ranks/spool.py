"""A file a rank, in which it says what it does and keeps its samples: what it wrote is there whatever becomes of it.

One JSON object a line: `hello` (who it is), `step` (what it does next), `sample`, `error` (why it ends).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from unet3d.results.timing import Sample

STARTING = "starting"


def path_of(folder: Path, local_rank: int) -> Path:
    """The file of a rank of this node."""
    return folder / f"rank{local_rank}.jsonl"


class Writer:
    """The rank's end of the file."""

    def __init__(self, path: Path):
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open as long as the rank lives

    def hello(self, **facts: Any) -> None:
        """Who this rank is."""
        self._put(hello=facts)

    def step(self, name: str, limited: bool) -> None:
        """What it does next, and whether RANK_TIMEOUT holds for it."""
        self._put(step=[name, limited])

    def sample(self, sample: Sample) -> None:
        """A finished call."""
        self._put(sample=asdict(sample))

    def error(self, message: str, exit_code: int, kind: str = "error", trace: str | None = None) -> None:
        """Why this rank ends. kind: 'error' for its own, 'told' for that of another node, 'peer' for a lost one."""
        self._put(error={"message": message, "exit_code": exit_code, "kind": kind, "trace": trace})

    def _put(self, **entry: Any) -> None:
        self._file.write(json.dumps(entry) + "\n")


class Reader:
    """The parent's end: `follow` takes in what is new."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self.hello: dict[str, Any] | None = None
        self.step, self.limited = STARTING, True
        self.samples: list[Sample] = []
        self.error: dict[str, Any] | None = None
        self._last_news = monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last news."""
        return monotonic() - self._last_news

    def follow(self) -> None:
        """Read the lines that were finished since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return
        # A killed rank can leave a part of a line.
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))
        if whole:
            self._last_news = monotonic()

    def _take(self, entry: dict[str, Any]) -> None:
        if "sample" in entry:
            self.samples.append(Sample(**{**entry["sample"], "cases": tuple(entry["sample"]["cases"])}))
        elif "step" in entry:
            self.step, self.limited = entry["step"]
        elif "hello" in entry:
            self.hello = entry["hello"]
        else:
            self.error = entry["error"]
