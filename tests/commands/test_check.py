"""The preflight: bounds that follow from FLOP and measured rates, what can run, what is missing and how to get it."""

import importlib.metadata
import os
import shutil
from types import SimpleNamespace

import pytest

from unet3d import cli, places
from unet3d.commands import check
from unet3d.config.settings import SETTINGS
from unet3d.devices import ceilings, host
from unet3d.devices.cuda import CudaDevice
from unet3d.network import flops
from unet3d.network.plans import random_plans

INFINITE = 1e30


@pytest.fixture(scope="module")
def layers():
    return flops.layers(random_plans(), (4, 224, 224, 160), 2)


def test_arithmetic_alone_is_flop_over_rate(layers):
    """3.70 TFLOP, the benchmark's figure for one volume."""
    seconds = check.bounds(layers, tflops=1.0, gbs=INFINITE)
    assert seconds.best == seconds.plain == pytest.approx(flops.flops(random_plans(), (4, 224, 224, 160)) / 1e12)
    assert seconds.best == pytest.approx(3.70, abs=0.005)


def test_memory_alone_is_bytes_over_rate(layers):
    seconds = check.bounds(layers, tflops=INFINITE, gbs=10.0)
    moved = sum(layer.input_bytes + layer.output_bytes + layer.weight_bytes for layer in layers)
    assert seconds.best == pytest.approx(moved / 1e10)
    assert seconds.plain == pytest.approx((moved + 3 * sum(layer.output_bytes for layer in layers)) / 1e10)


def test_each_layer_meets_its_own_ceiling():
    heavy = SimpleNamespace(flop=3e12, input_bytes=1e9, output_bytes=0, weight_bytes=0)
    wide = SimpleNamespace(flop=1e12, input_bytes=2e9, output_bytes=3e9, weight_bytes=0)
    seconds = check.bounds([heavy, wide], tflops=1.0, gbs=1.0)
    assert (seconds.best, seconds.plain) == (3 + 5, 3 + 1 + 1 + 5 + 9)


@pytest.fixture
def run_check(monkeypatch, capsys, tmp_path):
    """Runs --check with rates of a small machine instead of seconds of measuring."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        ceilings,
        "measure",
        lambda device, precision, threads=None: ceilings.Ceilings(
            device, precision, threads, None if precision == "int8" else 0.5, 20.0, "matrix product"
        ),
    )

    def run(*words):
        code = cli.main(["--check", *words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def row(text, title):
    return next(line for line in text.splitlines() if line.strip().startswith(title))


def test_report_of_a_cpu(run_check):
    code, text, _ = run_check("--platform", "CPU")
    assert code == 0
    assert host.cpu_model() in text
    assert "fp32" in row(text, "torch:")
    best, plain = (float(part.split()[-1]) for part in row(text, "CPU fp32").removesuffix(" s").split(" s, "))
    assert plain > best >= 3.70 / 0.5 - 0.05
    if importlib.util.find_spec("openvino"):
        assert "int8" in row(text, "openvino:") and "not measured" in row(text, "CPU int8")
    assert not any(line.strip().startswith(("CUDA:", "Flex")) for line in text.splitlines())


def test_what_is_missing_comes_with_how_to_get_it(run_check, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    gone = ("openvino", "onnxruntime", "mlperf_loadgen", "ninja")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
    monkeypatch.setattr(shutil, "which", lambda name, *rest, **named: None)
    monkeypatch.setattr(places, "FETCHED_WEIGHTS", tmp_path / "none.zip")
    monkeypatch.setattr(CudaDevice, "is_available", classmethod(lambda cls: False))
    code, text, _ = run_check("--precision", "fp32")
    assert code == 0
    missing = text.partition("What is missing")[2]
    for part in (
        "pip install -r requirements-openvino.txt",
        "pip install -r requirements-onnxruntime.txt",
        "pip install -r requirements-loadgen.txt",
        "apt-get install g++",
        "./setup.sh where zenodo.org",
        "--sample-data",
        "CUDA:",
        "Flex or Max:",
    ):
        assert part in missing
    assert "openvino:" not in text.partition("What is missing")[0]


def test_too_little_memory_and_disk_are_told(run_check, monkeypatch, tmp_path):
    monkeypatch.setattr(host, "available_memory", lambda: 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1e6))
    code, text, _ = run_check("--platform", "CPU", "--dataset-dir", str(tmp_path), "--batch-size", "4")
    assert code == 0
    assert "memory: BATCH_SIZE=4" in text and "0.0 GiB are free" in text
    assert "disk: OUTPUT_DIR output needs about 0.1 GB, 0.0 GB are free" in text
    assert "disk: PREPROCESSED_DIR" in text and "3.7 GB" in text


def test_nothing_that_can_run_is_2(run_check, monkeypatch):
    monkeypatch.setattr(CudaDevice, "is_available", classmethod(lambda cls: False))
    code, text, _ = run_check("--platform", "CUDA")
    assert code == 2 and "nothing with these settings" in text and "use PLATFORM=CPU" in text


def test_without_torch_nothing_runs(run_check, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    code, text, _ = run_check()
    assert code == 2 and "torch is not installed" in text and "./setup.sh" in text


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--platform", "TPU"], "use Flex, Max, CUDA, CPU"),
        (["--no-such-flag"], "unknown flag"),
        (["nonsense"], "'nonsense'"),
        (["--volume-shape", "1,2"], "multiples of 32"),
        ([""], "unexpected word"),
    ],
)
def test_bad_settings_are_one_line(run_check, words, part):
    code, text, errors = run_check(*words)
    assert code == 2 and text == "" and len(errors.splitlines()) == 1 and part in errors


def test_help_names_what_it_heeds(run_check):
    code, text, _ = run_check("--help")
    assert code == 0 and "--dataset-dir, DATASET_DIR" in text and "--num-iterations" not in text


def test_nothing_is_written(run_check, tmp_path):
    before = os.listdir(tmp_path)
    run_check("--platform", "CPU", "--output-dir", str(tmp_path / "output"))
    assert os.listdir(tmp_path) == before
