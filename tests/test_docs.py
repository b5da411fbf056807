"""Documents, scripts and container files name modules, files and settings that are there."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import unet3d

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
SCRIPTS = [
    ROOT / ".ci" / "run",
    *ROOT.glob("*.sh"),
    *ROOT.glob("tests/**/*.sh"),
    *ROOT.glob("docker/**/*.sh"),
    *ROOT.glob("docker/**/*Dockerfile"),
]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*DOCUMENTS, *SCRIPTS], ids=named)
def test_files_that_are_named_are_there(path):
    text = path.read_text(encoding="utf-8")
    # Not below /opt/unet3d, a container's; a name with <…> stands for many.
    names = re.findall(r"(?<![\w/.<-])((?:unet3d|tests|benchmarks|docs|docker|folds|samples)/[\w./-]*\w/?)(?![\w<*])", text)
    if path in DOCUMENTS:
        names += re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = {name for name in names if not (ROOT / name).exists() and not (path.parent / name).exists()}
    # In the wheel only.
    assert missing - {"unet3d/data/"} == set()


@pytest.mark.parametrize("path", [*DOCUMENTS, *SCRIPTS], ids=named)
def test_modules_that_are_started_or_imported_are_there(path):
    text = path.read_text(encoding="utf-8")
    modules = set(re.findall(r"-m (unet3d[\w.]*)", text))
    modules |= {f"{package}.{name}" for package, name in re.findall(r"from (unet3d[\w.]*) import (\w+)", text)}
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_picture_of_the_floors_is_of_today():
    path = ROOT / "docs" / "architecture_picture.py"
    spec = importlib.util.spec_from_file_location("architecture_picture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.picture(), f"run python {path.relative_to(ROOT)}"


def test_citation_is_of_this_version_and_names_what_is_measured():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert citation["version"] == unet3d.__version__
    assert [(work["authors"][0]["family-names"], work["year"]) for work in citation["references"]] == [
        ("Isensee", 2021),
        ("Menze", 2015),
        ("Bakas", 2017),
        ("Reddi", 2020),
    ]


# Linters: what a script does, seen with stand-ins for what it starts.
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
    return subprocess.run(["tests/run.sh", *words], cwd=checkout, env={"BROKEN": broken, "PATH": "/usr/bin:/bin"}, **TEXT)


TEXT = {"capture_output": True, "text": True, "timeout": 60}
LINTERS = ["ruff check", "ruff format --check", "mypy", "shellcheck"]


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
