"""gpu.py, tried out on the CPU: each row and its label come from the results.json of a run in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import contestants, gpu
from benchmarks.runs import Ended
from unet3d.devices import platforms

ROOT = Path(__file__).parents[2]


def run(*words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", *words],
        capture_output=True,
        text=True,
        env={**clean, "VOLUME_SHAPE": "64,64,64", "WEIGHTS": "sample", "WARM_UP": "1"},
        cwd=ROOT,
        timeout=500,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a table of nnU-Net's module and our network, its command and what was printed."""
    folder = tmp_path_factory.mktemp("gpu")
    words = ["--platform", "CPU", "--output", str(folder), "--precisions", "fp32,int8", "--iterations", "2"]
    words += ["--only", "stock-eager-fp32,ours-torch-none-fp32,stock-eager-int8", "--inputs", "no", "--batches", "2"]
    ended = run(*words)
    assert ended.returncode == 0, ended.stderr
    return folder, words, ended.stdout


def test_rows_are_those_of_the_runs(made):
    folder, _, printed = made
    document = json.loads((folder / "gpu.json").read_text())
    assert [(row["contestant"], row["batch"]) for row in document["rows"]] == [
        ("stock-eager-fp32", 2),
        ("ours-torch-none-fp32", 2),
    ]
    for row in document["rows"]:
        results = json.loads((folder / row["results"]).read_text())
        statistics, effective = results["statistics"], results["effective"]
        assert row["throughput_img_per_s"] == statistics["throughput"]
        assert (row["latency_p50_ms"], row["latency_p90_ms"]) == (statistics["p50"], statistics["p90"])
        assert row["relative_error"] == results["check"]["relative_error"]
        assert row["peak_host_gib"] == results["memory"]["peak_host_bytes"] / 2**30
        assert row["effective"] == effective and row["commit"] == results["benchmark"]["git_commit"]
        assert results["settings"]["requested"]["batch_size"] == row["batch"]
        ours = row["contestant"].startswith("ours")
        assert results["settings"]["requested"]["network"] == ("fast" if ours else "reference")
        assert effective["network"] == ("fast" if ours else "reference")
        assert row["variant"] == f"{'ours' if ours else 'nnU-Net'}, eager, {effective['layout']}"
        assert f"| {row['variant']} | fp32 | {row['batch']} | from host | {statistics['throughput']:.3g} |" in printed
    assert (folder / "gpu.md").read_text() in printed


def test_what_the_engine_refuses_is_named_with_its_reason(made):
    folder, _, printed = made
    left_out = json.loads((folder / "gpu.json").read_text())["left_out"]
    assert [item["name"] for item in left_out] == ["stock-eager-int8"]
    assert "Not measured: stock-eager-int8: PRECISION=int8 with ENGINE=torch" in printed


def test_the_same_command_goes_on(made):
    folder, words, _ = made
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    assert len(before) == 2
    assert run(*words).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}


def results(network, **effective):
    ran = {"engine": "torch 2.13.0", "network": network, "jit": "none", "layout": "contiguous", "details": {}}
    return {"settings": {"requested": {"network": "fast"}}, "effective": ran | effective}


@pytest.mark.parametrize(
    ("network", "effective", "label"),
    [
        ("reference", {}, "nnU-Net, eager, contiguous"),
        ("reference", {"layout": "channels_last_3d", "jit": "compile"}, "nnU-Net, JIT=compile, channels_last_3d"),
        (
            "fast",
            {"jit": "trace", "layout": "channels_last_3d", "details": {"graph": "CUDAGraph"}},
            "ours, JIT=trace, channels_last_3d, CUDAGraph",
        ),
        (
            "fast",
            {"layout": "channels_last_3d", "details": {"graph": "none: JIT=none launches each kernel"}},
            "ours, eager, channels_last_3d",
        ),
        # Whatever NETWORK asks for, this engine runs what the exporter makes of nnU-Net's module.
        ("reference", {"engine": "onnxruntime 1.31.1 TensorRT"}, "nnU-Net, onnxruntime 1.31.1 TensorRT, contiguous"),
    ],
)
def test_labels_say_what_ran(network, effective, label):
    assert gpu.label(results(network, **effective)) == label


def test_failed_runs_are_rows_with_their_reason():
    contestant = contestants.on_gpu(["bf16"])[0]
    row = gpu.row(contestant, "folder", 2, "yes", Ended(None, "out of memory | on the GPU"))
    assert gpu.table([row])[-1] == (
        "| nnU-Net's module as it is | bf16 | 2 | on device | failed: out of memory \\| on the GPU | | | | |"
    )


def test_every_form_takes_part_in_every_precision():
    everyone = contestants.on_gpu(["fp16", "int8"])
    names = [contestant.name for contestant in everyone]
    assert len(set(names)) == len(names) == 16
    for contestant in everyone:
        words = dict(zip(contestant.settings[::2], contestant.settings[1::2], strict=True))
        assert contestant.name.endswith(words["--precision"])
        if words["--engine"] == "torch":
            assert words["--network"] == ("fast" if contestant.ours else "reference")
        else:
            assert not contestant.ours and words["--onnx-provider"] in ("cuda", "tensorrt")


def test_tensorrt_in_fp32_takes_part_without_tf32(monkeypatch, tmp_path):
    """Its own process has the variable; whether it can run is asked with it, and this process is as it was."""
    pytest.importorskip("onnxruntime")
    from made_onnxruntime import Gpu, Module

    module = Module(Gpu())
    module.stands_in(monkeypatch)
    monkeypatch.setattr(platforms, "select", lambda platform: (module.device, "CUDA", "made up"))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    found = {contestant.name: contestant for contestant in contestants.on_gpu(["fp32", "bf16"])}
    words = ["--platform", "CUDA", "--output-dir", str(tmp_path), "--weights", "random"]
    tensorrt = found["stock-onnxruntime-tensorrt-fp32"]
    assert contestants.why_not(tensorrt, words, {}) is None
    assert "NVIDIA_TF32_OVERRIDE=0" in contestants.why_not(replace(tensorrt, environment={}), words, {})
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    assert "no bf16" in contestants.why_not(found["stock-onnxruntime-bf16"], words, {})
    monkeypatch.setattr(module, "available", ["CPUExecutionProvider"])
    assert "onnxruntime-gpu is not installed" in contestants.why_not(found["stock-onnxruntime-fp32"], words, {})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "tensorrt"], "--only: 'tensorrt' is not a contestant"),
        (["--batches", "0"], "'0' is not allowed"),
        (["--inputs", "maybe"], "--inputs: 'maybe' is not allowed"),
        (["--platform", "TPU"], "--platform: 'TPU' is not allowed"),
        (["--precisions"], "--precisions"),
    ],
)
def test_bad_arguments_are_refused(words, told, tmp_path, capsys):
    ended = run("--output", str(tmp_path / "out"), *words)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
