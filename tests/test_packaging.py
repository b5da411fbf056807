"""The wheel, built from a source distribution, holds all of the package and its data, and runs where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ["MANIFEST.in", "pyproject.toml", "setup.py", "*.md", "LICENSE", "predict.py", "requirements*.txt"]
FOLDERS = ["benchmarks", "folds", "samples", "unet3d"]
SUFFIXES = {".py", ".cpp", ".h", ".cu", ".cuh", ".html", ".css", ".js", ".json"}

# Not find_spec: to look for pip's module makes setuptools take another distutils, and PyTorch's Inductor fails after that.
pytestmark = pytest.mark.skipif(
    not {"pip", "setuptools"} <= {distribution.metadata["Name"] for distribution in distributions()},
    reason="a wheel is built without network by the environment's own pip and setuptools, which are not both here",
)


def run(*words, folder, **variables):
    result = subprocess.run(
        [str(word) for word in words], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{words}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that the source distribution gives; the checkout is left as it is."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for pattern in BUILT_FROM:
        for path in ROOT.glob(pattern):
            shutil.copy2(path, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # What an earlier build has left is not taken for a part of the package.
    stale = source / "build" / "lib" / "unet3d" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    archive = folder / run(sys.executable, "-c", code, folder=source).splitlines()[-1]
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, archive, folder=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder of the unpacked wheel, as site-packages would be."""
    folder = wheel.parent / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "unet3d").rglob("*")
        if path.suffix in SUFFIXES or path.name == "py.typed"
    }
    data = {f"unet3d/data/{path.relative_to(ROOT)}" for name in ("folds", "samples") for path in (ROOT / name).iterdir()}
    data |= {f"unet3d/data/reference_results/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert data >= {"unet3d/data/samples/fold_1.zip", "unet3d/data/folds/fold1_validation.txt"}
    assert names == package | data
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_names_its_command_extras_and_licence(installed):
    [info] = installed.glob("*.dist-info")
    assert "unet3d = unet3d.start:start" in (info / "entry_points.txt").read_text()
    assert (info / "licenses" / "LICENSE").is_file()
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    for extra in ("openvino", "onnxruntime", "onnxruntime-gpu", "onnxruntime-tensorrt", "nvidia", "loadgen", "test"):
        assert f"Provides-Extra: {extra}\n" in metadata


def test_installed_package_finds_its_data_and_runs_anywhere(installed, tmp_path):
    environment = {"PYTHONPATH": str(installed)}
    code = "from unet3d.places import *; print(CHECKOUT, SAMPLE_WEIGHTS.is_file(), len(list(FOLDS.iterdir())), *command()[1:])"
    words = run(sys.executable, "-c", code, folder=tmp_path, **environment).split()
    assert words == ["False", "True", "5", "-m", "unet3d"]
    assert "--num-iterations" in run(sys.executable, "-m", "unet3d", "--help", folder=tmp_path, **environment)
    assert os.listdir(tmp_path) == []


def test_installed_package_measures_the_sample_weights(installed, tmp_path):
    small = {"VOLUME_SHAPE": "64,32,32", "WEIGHTS": "sample", "PRECISION": "fp32", "JIT": "none", "NUM_ITERATIONS": "2"}
    variables = {**small, "PLATFORM": "CPU", "ENGINE": "torch", "NETWORK": "reference", "OUTPUT_DIR": "out"}
    output = run(sys.executable, "-m", "unet3d", folder=tmp_path, PYTHONPATH=str(installed), **variables)
    assert "weights: sample" in output
    assert "complete: true" in (tmp_path / "out" / "results.yaml").read_text()
