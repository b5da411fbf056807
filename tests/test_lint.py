"""tests/run.sh lints before it tests, and stops where a linter finds something; with stand-ins for what it starts."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LINTERS = ["ruff check", "ruff format --check", "mypy", "shellcheck"]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the two scripts, where every tool is a stand-in that fails when BROKEN is among its words."""
    (tmp_path / "tests").mkdir()
    for name in ("lint.sh", "run.sh"):
        (tmp_path / "tests" / name).write_bytes((ROOT / "tests" / name).read_bytes())
        (tmp_path / "tests" / name).chmod(0o755)
    # Knows linters by their words, but for shellcheck, whose words are files: setup.sh is among them.
    tool = (
        '#!/bin/sh\ncase "$*" in *scripts*) echo "$PWD" ;; *"$BROKEN"*) echo "found: $*"; exit 1 ;; *) echo "$0 $*" ;; esac\n'
    )
    for name, text in {"setup.sh": f"#!/bin/sh\necho {tmp_path}/python\n", "python": tool, "shellcheck": tool}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def run_tests(checkout, *words, broken="nothing"):
    environment = {"BROKEN": broken, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["tests/run.sh", *words], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60)


def test_run_lints_by_name_and_then_tests(checkout):
    result = run_tests(checkout)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [*(f"lint: {name}" for name in LINTERS), f"{checkout}/python -m pytest"]


@pytest.mark.parametrize(("broken", "count"), [("ruff check", 1), ("ruff format", 2), ("mypy", 3), ("setup.sh", 4)])
def test_run_stops_at_the_first_linter_that_fails_and_shows_why(checkout, broken, count):
    result = run_tests(checkout, broken=broken)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [f"lint: {name}" for name in LINTERS[:count]]
    shown, last = result.stderr.splitlines()
    assert shown.startswith("found: ") and broken in shown
    assert last == f"lint: {LINTERS[count - 1]} failed"


def test_run_with_arguments_only_tests(checkout):
    result = run_tests(checkout, "-k", "timing", broken="ruff")
    assert (result.returncode, result.stdout) == (0, f"{checkout}/python -m pytest -k timing\n")


def test_pre_commit_runs_every_linter_of_the_script():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    words = [hook["entry"].split() for hook in repository["hooks"]]
    script = (ROOT / "tests" / "lint.sh").read_text(encoding="utf-8")
    assert {path for path, _ in words} == {"tests/lint.sh"}
    assert " ".join(word for _, word in words) == re.search(r"set -- (.*)$", script, re.MULTILINE)[1]
