"""The paired benchmark: its intervals against SciPy's, its tables, and whole rounds in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_gpu import HostGpu

from benchmarks import contestants, report, runs
from benchmarks import paired as paired_benchmark
from benchmarks.runs import Ended

ROOT = Path(__file__).parents[2]


def results(latencies, throughput=None, streams=1, batch=1, commit="a" * 40, device=None, joules=None):
    return {
        "statistics": {"throughput": throughput},
        "effective": {"engine": "engine 1"},
        "samples": {"latency_ms": latencies, "volumes": [batch] * len(latencies), "rank": [0] * len(latencies)},
        "settings": {"requested": {"streams": streams, "platform": "CUDA" if device else "CPU"}},
        "benchmark": {"git_commit": commit},
        "volume": {"shape": [4, 64, 64, 64], "tflop": 3.0},
        "weights": {"kind": "random"},
        "memory": {"peak_host_bytes": 2**30, "peak_device_bytes": device},
        "telemetry": joules and {"energy": {"joules_per_volume": {"RAPL package-0": 0.5, "NVML": joules}}},
        "check": {"relative_error": 0.01, "label_agreement": 0.99},
        "ranks": [],
        "environment": {"hardware": {"logical_cpus": 4}},
        "disturbance": {"others_share": 0.4},
    }


def test_seconds_are_of_a_volume():
    assert report.seconds_per_volume(results([500.0, 700.0], batch=2)) == pytest.approx([0.25, 0.35])
    assert report.seconds_per_volume(results([900.0], throughput=2.0, streams=2)) == [0.5]


def test_tables_name_ratios_failures_and_absent_peers():
    ours, other, failing, absent = (
        contestants.Contestant(name, "what", name == "ours", ()) for name in ("ours", "other", "failing", "absent")
    )
    runs = {
        "ours": {1: Ended(results([1000.0, 1000.0]), None)},
        "other": {1: Ended(results([2000.0, 2000.0], commit="b" * 40), None)},
        "failing": {1: Ended(None, "out of memory")},
        "absent": {},
    }
    document = report.document([ours, other, failing, absent], runs, {"absent": "not installed"}, rounds=1)
    assert [(pair["ours"], pair["peer"], pair["ratio"]) for pair in document["ratios"]] == [
        ("ours", "other", pytest.approx(2.0))
    ]
    assert document["best"]["peer"] == "other"
    assert document["complete"] is True
    text = report.markdown({**document, "machine": "A machine", "streams": 1})
    assert "| other | 2.00× (2.00–2.00) |" in text
    assert "| failing | what; not measured: out of memory |" in text
    assert "| absent | what; not measured: not installed |" in text
    assert "| ours | engine 1: what | 1.00 | 1.00–1.00 | 3.00 | – | 1.0 |" in text
    assert "| host GiB |" in text
    assert "several commits" in text
    # 90% of four CPUs were busy, of which this process had two: the others took 40% of the machine.
    assert document["contestants"][0]["others_cpu_share"] == pytest.approx(0.4)


def test_a_gpus_table_has_its_memory_and_its_energy():
    """Its calls take milliseconds: seconds to two places would say nothing. Joules are the card's, not the host's with them."""
    ours, other = (contestants.Contestant(name, "what", name == "ours", ()) for name in ("ours", "other"))
    runs = {
        "ours": {1: Ended(results([7.0, 7.24], device=3 * 2**30, joules=5.04), None)},
        "other": {1: Ended(results([21.0, 21.72], device=6 * 2**30, joules=15.2), None)},
    }
    shared = {"machine": "A machine", "streams": 1, "input_on_device": "yes"}
    text = report.markdown({**report.document([ours, other], runs, {}, rounds=1), **shared})
    assert "| device GiB |" in text
    assert "one volume in flight, volumes on the device" in text
    assert "| ours | engine 1: what | 0.00712 | 0.00700–0.00724 | 421 | 5.0 | 3.0 |" in text
    assert "| other | 3.00× (2.90–3.10) |" in text


def test_pairs_on_a_gpu_name_it_and_where_the_volumes_are(tmp_path, monkeypatch):
    commands = []

    def make(contestant, command, place, *_):
        commands.append(command)
        return Ended(results([7.0, 7.5], device=2**30), None)

    monkeypatch.setenv("INPUT_ON_DEVICE", "yes")
    monkeypatch.setattr(paired_benchmark.platforms, "select", lambda platform: (HostGpu(), platform, "a stand-in"))
    monkeypatch.setattr(contestants, "why_not", lambda *_: None)
    monkeypatch.setattr(runs, "make", make)
    name = "ours-torch-trace-fp16"
    assert paired_benchmark.main(["--platform", "CUDA", "--only", name, "--rounds", "1", "--output", str(tmp_path)]) == 0
    [command] = commands
    assert command[command.index("--platform") + 1] == "CUDA" and command[command.index("--input-on-device") + 1] == "yes"
    document = json.loads((tmp_path / "CUDA-streams-1" / "paired.json").read_text())
    assert document["hardware"]["device"] == "Fake" and "; Fake (" in document["machine"]
    assert "volumes on the device" in (tmp_path / "CUDA-streams-1" / "paired.md").read_text()


def test_peers_run_nnunets_own_module_and_ours_the_inference_form():
    for contestant in contestants.on_cpu(None):
        words = dict(zip(contestant.settings[::2], contestant.settings[1::2], strict=True))
        if words["--engine"] != "onnxruntime":
            assert words["--network"] == ("fast" if contestant.ours else "reference")
    names = [contestant.name for contestant in contestants.on_cpu(None)]
    assert len(set(names)) == len(names)


def test_a_missing_ipex_is_told():
    def reason(python):
        return contestants.why_not(next(contestant for contestant in contestants.on_cpu(python) if contestant.ipex), [], {})

    assert "--ipex-python" in reason(None)
    assert "/no/python is not an interpreter" in reason("/no/python")
    if subprocess.run([sys.executable, "-c", "import intel_extension_for_pytorch"], capture_output=True).returncode:
        assert "has no intel-extension-for-pytorch" in reason(sys.executable)


def paired(*words):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "paired.py", *words],
        capture_output=True,
        text=True,
        env={**clean, "VOLUME_SHAPE": "64,32,32", "WEIGHTS": "sample"},
        cwd=ROOT,
        timeout=300,
    )


def test_a_round_goes_on_where_it_was_stopped(tmp_path):
    names = [
        contestant.name
        for contestant in contestants.on_cpu(None)
        if contestant.name.startswith("stock-torch-trace") or contestant.name.startswith("stock-onnxruntime")
    ]
    words = ["--output", str(tmp_path), "--only", ",".join(names), "--rounds", "1", "--iterations", "2", "--warm-up", "1"]
    first = paired(*words, "--limit", "1")
    assert first.returncode == 1, first.stderr
    assert "1 runs are left" in first.stdout
    folder = tmp_path / "streams-1"
    trace = folder / "round-01" / names[0] / "results.json"
    before = trace.stat().st_mtime_ns
    second = paired(*words)
    assert second.returncode == 0, second.stderr
    assert trace.stat().st_mtime_ns == before
    document = json.loads((folder / "paired.json").read_text())
    assert document["complete"] is True
    assert [row["name"] for row in document["contestants"] if row["rounds"]] == names
    assert json.loads(trace.read_text())["settings"]["requested"]["network"] == "reference"
    seconds = json.loads(trace.read_text())["samples"]["latency_ms"]
    assert document["contestants"][0]["seconds_per_volume"] == pytest.approx(np.mean(seconds) / 1e3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "tensorrt"], "--only: 'tensorrt' is not a contestant"),
        (["--rounds", "0"], "'0' is not allowed"),
        (["--platform", "GPU"], "invalid choice: 'GPU'"),
        (["--platform", "CUDA", "--ipex-python", "python3"], "--ipex-python: is for --platform CPU, not CUDA"),
        pytest.param(
            ["--platform", "CUDA"],
            "PLATFORM=CUDA, but",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_bad_arguments_are_refused(words, told, tmp_path):
    ended = paired("--output", str(tmp_path / "out"), *words)
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_peer_that_keeps_its_memory_is_run_with_its_variables(tmp_path, monkeypatch):
    kept = [contestant for contestant in contestants.on_cpu(None) if contestant.environment]
    assert kept and all("kept" in contestant.name and not contestant.ours for contestant in kept)
    seen = {}
    outcome = SimpleNamespace(document=None, reason="stopped", seconds=0.0)
    monkeypatch.setattr(runs.process, "run", lambda *_, environ, **__: seen.update(environ) or outcome)
    runs.make(kept[0], [], tmp_path, 60)
    assert seen["MALLOC_MMAP_MAX_"] == "0" and seen["PATH"] == os.environ["PATH"]


def test_a_run_that_takes_too_long_is_a_row_with_its_reason(tmp_path):
    [name] = [contestant.name for contestant in contestants.on_cpu(None) if contestant.name.startswith("stock-torch-trace")]
    words = ["--output", str(tmp_path), "--only", name, "--rounds", "1"]
    ended = paired(*words, "--time-limit", "0.02")
    assert "failed: stopped after the time limit of 1.2 s" in ended.stdout, ended.stderr
    document = json.loads((tmp_path / "streams-1" / "paired.json").read_text())
    assert document["contestants"][0]["reason"] == "stopped after the time limit of 1.2 s"
    # The same limit would end in the same way, a longer one may not.
    outcome = tmp_path / "streams-1" / "round-01" / name / "outcome.json"
    before = outcome.stat().st_mtime_ns
    paired(*words, "--time-limit", "0.02")
    assert outcome.stat().st_mtime_ns == before
    again = paired(*words, "--time-limit", "0.03")
    assert "failed: stopped after the time limit of 1.8 s" in again.stdout, again.stderr
    refused = paired(*words, "--time-limit", "0")
    assert refused.returncode == 2 and "use a number of minutes above 0" in refused.stderr
