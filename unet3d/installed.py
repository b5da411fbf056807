"""Tells whether this interpreter has the packages of a requirements file; standard library only, run as a script.

Exit code 0 when every package is there. Versions may differ from the pinned ones, since a container or a cluster's module
brings its own torch for its devices, with two exceptions: torch must be 2.6 or newer, and nnunet must be the pinned one,
whose network and evaluation are the benchmark's reference. The versions in use stand in every result.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

LEAST_TORCH = (2, 6)


def missing(requirements: Path) -> list[str]:
    """One line for each package of a requirements file, and of those that it includes, that is not there as pinned."""
    problems = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            problems += missing(requirements.parent / line.removeprefix("-r ").strip())
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;#]+)", line.split("#")[0].strip())
        if not match:
            continue
        name, wanted = match.groups()
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if name == "torch" and numbers < LEAST_TORCH:
            problems.append(f"torch {version} is older than {'.'.join(map(str, LEAST_TORCH))}")
        elif name == "nnunet" and version != wanted:
            problems.append(f"nnunet is {version}, {wanted} is needed")
    return problems


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - setup.sh asks older interpreters too
        sys.exit("Python 3.11 or newer is needed")
    lines = missing(Path(sys.argv[1]))
    for line in lines:
        print(line)
    sys.exit(1 if lines else 0)
