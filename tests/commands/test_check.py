"""The preflight: bounds that follow from FLOP and measured rates, what can run, what is missing and how to get it."""

import importlib.metadata
import os
import re
import shutil
from types import SimpleNamespace

import pytest
from made_cpus import BusyCpus
from making import asked_of

from unet3d import cli, places
from unet3d.commands import check
from unet3d.config.precisions import PRECISIONS
from unet3d.config.settings import SETTINGS
from unet3d.devices import ceilings, cpu_time, host, registry
from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.devices.cpu import CpuDevice
from unet3d.devices.cuda import CudaDevice
from unet3d.network import cpu, flops
from unet3d.network.cpu_ops import build, peak
from unet3d.network.plans import random_plans
from unet3d.results import advice

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
        lambda device, precision, threads=None: Ceilings(
            device, precision, threads, None if precision == "int8" else 0.5, 20.0, "matrix product"
        ),
    )
    loops = {"fp32": Rate("fp32", 0.8, "AVX2 FMA in registers"), "bf16": Rate("bf16", 2.0, "AMX bf16 in registers")}
    monkeypatch.setattr(peak, "best", lambda products, threads: loops.get(products))

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
    best, plain = seconds(row(text, "CPU fp32"))
    assert plain > best >= 3.70 / 0.8 - 0.05
    assert "0.8 TFLOP/s" in row(text, "CPU fp32") and "0.5 TFLOP/s" in row(text, "CPU fp32")
    assert "CPU fp32: hardware AVX2 FMA in registers; library matrix product" in " ".join(text.split())
    if importlib.util.find_spec("openvino"):
        assert "int8" in row(text, "openvino:") and "not measured" in row(text, "CPU int8")
    assert not any(line.strip().startswith(("CUDA:", "Flex")) for line in text.splitlines())


def test_a_gpus_rate_is_a_librarys(run_check):
    [row], line = check._speed("CUDA", "fp16", (), (4, 224, 224, 160), 1)
    assert row[1:3] == ["not measured", "0.5 TFLOP/s"]
    best, _ = seconds(" ".join(row))
    assert best >= 3.70 / 0.5 - 0.05
    assert line == "CUDA fp16: hardware not measured (there are loops of products for CPUs alone); library matrix product"


@pytest.mark.skipif(not build.available(), reason=build.status()[1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_speed_of_our_form_is_of_the_products_that_it_executes(run_check, precision):
    _, text, _ = run_check("--platform", "CPU", "--precision", precision)
    rates = {"fp32": 0.8, "bf16": 2.0}
    executed = cpu.planned(random_plans(), PRECISIONS[precision].dtype(), (1, 4, 224, 224, 160))
    least = sum(layer.flop / 1e12 / rates[layer.products] for layer in executed)
    [ours], [direct, _] = seconds(row(text, "torch  ")), seconds(row(text, f"CPU {precision}"))
    # On AMX tiles all of bf16 is direct.
    saves = any(layer.products == "fp32" for layer in executed)
    assert 0.99 * least <= ours
    assert (ours < direct) == saves
    for products, flop in flops.by_type(executed).items():
        assert f"{flop / 1e12:.2g} TFLOP in {products}" in " ".join(text.split())


def seconds(line):
    return [float(found) for found in re.findall(r"([\d.]+) s\b", line)]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_other_work_is_told_and_the_own_is_not(run_check, monkeypatch, share):
    """The load average, which counts what this process has just done, says nothing."""
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 64.0, 64.0))
    # So quick are made-up rates that others' share is of less time than a disturbance takes.
    monkeypatch.setattr(advice, "LEAST_S", 0)
    monkeypatch.setattr(cpu_time, "read", BusyCpus(share).read)
    code, text, _ = run_check("--platform", "CPU", "--precision", "fp32")
    assert code == 0
    assert ("other work had 30% of the" in text) == ("stop it and check again" in text) == bool(share)


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


def test_what_onnxruntime_lacks_for_a_gpu_is_told_with_the_command_that_mends_it(monkeypatch):
    """The package for CPUs is there, which runs on the CPU; TensorRT is looked for where it is asked for."""
    pytest.importorskip("onnxruntime")
    from made_onnxruntime import CPU, CUDA, Gpu, Module

    module = Module(Gpu())
    module.stands_in(monkeypatch, ["onnxruntime"])
    monkeypatch.setattr(CudaDevice, "is_available", classmethod(lambda cls: True))
    opened = {"cuda": module.device, "cpu": CpuDevice()}
    monkeypatch.setattr(registry, "open_device", lambda kind: opened[kind])
    module.available = [CPU]
    runnable, lacking = check.what_runs(asked_of(precision="fp32"))
    assert runnable["CPU"]["onnxruntime"] == ["fp32"] and "onnxruntime" not in runnable["CUDA"]
    [line] = [line for line in lacking if "onnxruntime-gpu" in line]
    assert "pip uninstall -y onnxruntime && pip install -r requirements-onnxruntime-gpu.txt" in line
    module.available = [CUDA, CPU]
    asked = asked_of(precision="fp16", platform="CUDA", onnx_provider="tensorrt", engine="onnxruntime")
    module.stands_in(monkeypatch, ["onnxruntime-gpu"])
    runnable, lacking = check.what_runs(asked)
    assert "onnxruntime" not in runnable["CUDA"] and "torch" in runnable["CUDA"]
    assert any("TensorRT" in line and "requirements-onnxruntime-tensorrt.txt" in line for line in lacking)


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


@pytest.mark.parametrize("there", [True, False])
def test_ninja_is_missing_where_the_run_would_not_find_it(monkeypatch, there):
    """Its package alone, whose program is nowhere, builds nothing."""
    gone = () if there else ("ninja",)
    monkeypatch.setattr(shutil, "which", lambda name, **named: None if name in gone else f"/bin/{name}")
    assert any(line.startswith("ninja: ") for line in check.missing(asked_of())) != there


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
