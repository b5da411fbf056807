"""An active environment is used where a run works in it, and what it lacks is said; setup.sh with stand-ins for pythons."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import making
import pytest

from unet3d import cli, installed
from unet3d.errors import UserErrors
from unet3d.planning import plan

ROOT = Path(__file__).parents[1]


@pytest.fixture
def versions(monkeypatch):
    """What importlib.metadata says is installed: all that is pinned, but for changes made here (None: not installed)."""
    changes = {}
    version = importlib.metadata.version

    def changed(name):
        found = changes.get(name, "") or (version(name) if name not in changes else None)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", changed)
    return changes


@pytest.mark.parametrize(
    ("changes", "code", "line"),
    [
        ({}, 0, ""),
        ({"nilearn": None}, 3, "lacks nilearn (sample data); pip install nilearn==0.14.1"),
        ({"nilearn": None, "numpy": None}, 1, "numpy is not installed\nnilearn is not installed"),
        ({"torch": "2.5.1+cpu"}, 1, "torch 2.5.1+cpu is older than what is supported"),
        ({"torch": "3.0.0"}, 1, "torch 3.0.0 is newer than what is supported"),
        ({"torch": "2.6.0a0+git1"}, 0, ""),
        ({"nnunet": "1.7.0"}, 1, "nnunet is 1.7.0, 1.7.1 is needed"),
    ],
)
def test_what_an_environment_lacks(versions, capsys, changes, code, line):
    versions |= changes
    assert installed.main(ROOT / "requirements.txt") == code
    assert capsys.readouterr().out.strip() == line


@pytest.mark.parametrize(
    ("torch", "found"), [("2.5.1", "torch 2.5.1 is older"), ("3.1", "torch 3.1 is newer"), (None, "not installed")]
)
def test_a_run_refuses_a_torch_that_it_does_not_know(versions, monkeypatch, tmp_path, capsys, torch, found):
    versions["torch"] = torch
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    assert cli.main([]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert found in line and "2.6 or newer, below 3: ./setup.sh" in line and not list(tmp_path.iterdir())
    with pytest.raises(UserErrors, match=found):
        plan.make(making.asked_of())


def stand_in(folder, code, text):
    """An interpreter that says this of its packages."""
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\necho "{text}"\nexit {code}\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def checkout(tmp_path):
    """A folder with setup.sh and a .venv of its own that has everything."""
    (tmp_path / "setup.sh").write_bytes((ROOT / "setup.sh").read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "active").mkdir()
    stand_in(tmp_path / ".venv" / "bin", 0, "").rename(tmp_path / ".venv" / "bin" / "python")
    return tmp_path


def setup(checkout, **environment):
    environment = {"PATH": f"{checkout}/active:/usr/bin:/bin", **environment}
    command = ["bash", checkout / "setup.sh", "--python"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return Path(ended.stdout.strip()), ended.stderr.splitlines()


def test_an_active_environment_that_lacks_what_a_run_does_without_is_used(checkout):
    python = stand_in(checkout / "active", 3, "lacks nilearn (sample data); pip install nilearn==0.14.1")
    used, [line] = setup(checkout)
    assert used == python
    assert line == f"setup: using {python}, which lacks nilearn (sample data); pip install nilearn==0.14.1"


def test_an_active_environment_that_a_run_does_not_work_in_is_named(checkout):
    stand_in(checkout / "active", 1, "psutil is not installed")
    used, [line] = setup(checkout, VIRTUAL_ENV="/somewhere")
    assert used == checkout / ".venv" / "bin" / "python" and "psutil is not installed" in line
    assert setup(checkout) == (used, [])  # the system's Python is nobody's choice


def test_a_full_disk_is_told_with_what_cuda_needs(checkout):
    """4 GB were free, or nothing had begun: it is CUDA's libraries that fill the disk, on a machine without a GPU too."""
    python = checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "ERROR: [Errno 28] No space left on device"\nexit 1\n')
    stand_in(checkout / "active", 1, "psutil is not installed")
    with pytest.raises(subprocess.CalledProcessError) as ended:
        setup(checkout)
    assert ended.value.returncode == 2
    assert "free 10 GB" in ended.value.stderr and "4 GB for a PyTorch without CUDA" in ended.value.stderr


@pytest.mark.timeout(300)
def test_a_run_does_without_what_is_spared(tmp_path):
    """The modules of those packages cannot be imported here: neither the run nor its results need them."""
    modules = ["ninja", "nilearn", "matplotlib", "jinja2", "markupsafe"]
    assert sorted(modules) == sorted(name.lower() for name in installed.SPARED)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r})); from unet3d import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    settings = {
        "WEIGHTS": "sample",
        "VOLUME_SHAPE": "64,32,32",
        "NUM_ITERATIONS": "1",
        "WARM_UP": "0",
        "JIT": "none",
        "PRECISION": "fp32",
    }
    environment = os.environ | settings | {"PLATFORM": "CPU", "OUTPUT_DIR": str(tmp_path), "UNET3D_KERNELS": "off"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING[no-report]" in ended.stdout + ended.stderr and (tmp_path / "results.json").exists()
