"""Which packages this interpreter has, and the range of PyTorch that the benchmark runs with; standard library only.

Run as a script with a requirements file, it prints a line for each package that is not there. Exit code 0 when all are, 3
when only such as a run does without are missing, 1 otherwise. Versions may differ from the pinned ones, since a container
or a cluster's module brings its own torch for its devices, with two exceptions: torch must be in `TORCH`, and nnunet must
be the pinned one, whose network and evaluation are the benchmark's reference. The versions in use stand in every result.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOME_LACK, ONLY_SPARED_LACK = 1, 3


class Range(NamedTuple):
    """Versions from `first` on, below `end`."""

    first: tuple[int, ...]
    end: tuple[int, ...]

    def __contains__(self, version: object) -> bool:
        return isinstance(version, tuple) and self.first <= version < self.end

    def __str__(self) -> str:
        return f"{_text(self.first)} or newer, below {_text(self.end)}"


# The one place that says it: setup.sh and every run check it. tests/versions/run.sh runs the ends of it.
TORCH = Range((2, 6), (3,))

# What a run does without, and what is lost then.
SPARED = {
    "ninja": "compiles the CPU's operators, without it PyTorch's slower ones run",
    "nilearn": "sample data",
    "matplotlib": "report.html",
    "Jinja2": "report.html",
    "MarkupSafe": "report.html",
}


class Lack(NamedTuple):
    """A package that is not there as it should be; `pin` is what pip is to be given."""

    name: str
    pin: str
    text: str

    @property
    def spared(self) -> bool:
        """Whether a run does without."""
        return self.name in SPARED


def lacking(requirements: Path) -> Iterator[Lack]:
    """The packages of a requirements file, and of those that it includes, that are not there as pinned."""
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from lacking(requirements.parent / line.removeprefix("-r ").strip())
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line.split("#")[0].strip())
        if match and (problem := _problem(*match.groups())):
            yield Lack(match[1], match[0], problem)


def why_torch_cannot() -> str | None:
    """Why a run cannot use this interpreter's torch, in a line with what to do; None where it can."""
    problem = _problem("torch", "")
    if problem is None:
        return None
    return (
        f"{problem}; the benchmark runs with torch {TORCH}: ./setup.sh makes an environment that has it, or "
        "pip install the torch of your device (docs/install.md)"
    )


def _problem(name: str, pinned: str) -> str | None:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    if name == "torch" and _numbers(version) not in TORCH:
        return f"torch {version} is {'older' if _numbers(version) < TORCH.first else 'newer'} than what is supported"
    if name == "nnunet" and version != pinned:
        return f"nnunet is {version}, {pinned} is needed"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def main(requirements: Path) -> int:
    """Print what is lacking, what a run needs first; see the module for the exit code."""
    lacks = sorted(lacking(requirements), key=lambda lack: lack.spared)
    if lacks and all(lack.spared for lack in lacks):
        named = ", ".join(f"{lack.name} ({SPARED[lack.name]})" for lack in lacks)
        print(f"lacks {named}; pip install {' '.join(lack.pin for lack in lacks)}")
        return ONLY_SPARED_LACK
    for lack in lacks:
        print(lack.text)
    return SOME_LACK if lacks else 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - setup.sh asks older interpreters too
        sys.exit("Python 3.11 or newer is needed")
    sys.exit(main(Path(sys.argv[1])))
