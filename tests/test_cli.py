"""Whole runs of predict.py in their own process, on small volumes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from unet3d.config.settings import SETTINGS

ROOT = Path(__file__).parents[1]
SMALL = {"PLATFORM": "CPU", "VOLUME_SHAPE": "64,64,64", "WEIGHTS": "random"}
STATUS = re.compile(
    r"INFO\[1/1\]: PERF_STATUS\[(\d+)/(\d+)\] Throughput=\d+\.\d\d img/s \| Latency=\d+\.\d\d ms \| "
    r"Total Accuracy=n/a \| Whole Tumor Accuracy=n/a \| Core Tumor Accuracy=n/a \| Enhanced Tumor Accuracy=n/a \| "
    r"Throughput /w Overhead=\d+\.\d\d img/s \| Latency /w Overhead=\d+\.\d\d ms"
)


def environment(**variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return {**clean, **SMALL, **variables}


def predict(*words, **variables):
    return subprocess.run(
        [sys.executable, ROOT / "predict.py", *words],
        capture_output=True,
        text=True,
        env=environment(**variables),
        cwd=ROOT,
        timeout=300,
    )


@pytest.fixture(scope="module")
def performance(tmp_path_factory):
    folder = tmp_path_factory.mktemp("performance")
    ended = predict("--num-iterations", "3", "--status-prints", "2", OUTPUT_DIR=str(folder))
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_status_lines_have_the_samples_form(performance):
    lines = [line for line in performance[1].splitlines() if "PERF_STATUS" in line]
    found = [STATUS.fullmatch(line) for line in lines]
    assert all(found)
    assert [match.groups() for match in found] == [("2", "3"), ("3", "3")]


def test_yaml_begins_with_the_samples_three_entries(performance):
    document = yaml.safe_load((performance[0] / "results.yaml").read_text())
    first = document["results"][:3]
    assert [(entry["key"], entry["unit"]) for entry in first] == [
        ("throughput", "img/s"),
        ("latency", "ms"),
        ("accuracy", "percents"),
    ]
    assert first[0]["value"] * first[1]["value"] == pytest.approx(1000)
    assert first[2]["value"] is None
    assert document["run"]["complete"] is True
    assert document["run"]["weights"] == "random"
    assert "other-volume" in document["run"]["warnings"]


def test_json_holds_raw_samples_and_what_ran(performance):
    document = json.loads((performance[0] / "results.json").read_text())
    assert document["schema_version"] == 2
    assert len(document["samples"]["latency_ms"]) == 3
    mean = sum(document["samples"]["latency_ms"]) / 3
    assert document["statistics"]["mean"] == pytest.approx(mean)
    assert document["effective"]["precision"] == document["settings"]["requested"]["precision"]
    assert document["effective"]["jit"] == "trace"
    assert document["settings"]["source"]["num_iterations"] == "flag"
    assert document["settings"]["reasons"]["precision"]
    assert document["check"]["label_agreement"] > 0.9
    assert document["environment"]["versions"]["torch"]
    assert document["weights"]["parameters"] == 31_198_976
    assert document["volume"]["standard"] is False


def test_log_holds_the_console_and_every_setting(performance):
    log = (performance[0] / "output_raw.log").read_text()
    before, _, rest = log.partition("Settings\n")
    table = "".join(f"{line}\n" for line in rest.splitlines() if line.startswith("  "))
    assert before + rest.removeprefix(table) == performance[1]
    assert [line.split()[0] for line in table.splitlines()] == [setting.variable for setting in SETTINGS]


def test_a_run_begins_with_what_runs_and_what_was_set(performance):
    first, second = performance[1].splitlines()[:2]
    assert re.fullmatch(
        r"Running torch (fp32|bf16) on CPU, JIT trace, batch 1, volume 64x64x64, 3 calls, random volumes, weights random", first
    )
    assert second == (
        f"Set: PLATFORM=CPU NUM_ITERATIONS=3 WEIGHTS=random VOLUME_SHAPE=64,64,64 OUTPUT_DIR={performance[0]} STATUS_PRINTS=2"
    )


def test_second_run_keeps_the_first(performance):
    folder, _ = performance
    first = (folder / "results.json").read_text()
    ended = predict("--num-iterations", "1", "--warm-up", "0", "--jit", "none", OUTPUT_DIR=str(folder))
    assert ended.returncode == 0, ended.stderr
    assert "were renamed" in ended.stdout
    kept = [path for path in folder.glob("results.*.json")]
    assert [path.read_text() for path in kept] == [first]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_valid_incomplete_results(tmp_path, number, code):
    running = subprocess.Popen(
        [sys.executable, ROOT / "predict.py", "--num-iterations", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(OUTPUT_DIR=str(tmp_path), STATUS_PRINTS="100000"),
    )
    for line in running.stdout:
        if "PERF_STATUS[2/" in line:
            break
    sent = time.monotonic()
    running.send_signal(number)
    _, errors = running.communicate(timeout=120)
    assert time.monotonic() - sent < 60
    assert running.returncode == code
    assert "Traceback" not in errors
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["complete"] is False
    assert document["incomplete_reason"] == f"stopped by {signal.Signals(number).name}"
    assert len(document["samples"]["latency_ms"]) >= 2
    assert yaml.safe_load((tmp_path / "results.yaml").read_text())["run"]["complete"] is False
    if number == signal.SIGINT:  # after SIGTERM there is a limit of time
        html = (tmp_path / "report.html").read_text()
        assert "INCOMPLETE: stopped by SIGINT" in html and "Latency over the run" in html


def test_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    ended = predict(OUTPUT_DIR=str(tmp_path / "file" / "output"))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "OUTPUT_DIR" in ended.stderr


def test_too_large_a_batch_says_what_is_needed(tmp_path):
    ended = predict("--batch-size", "100000", OUTPUT_DIR=str(tmp_path))
    assert ended.returncode == 4
    assert re.search(r"about [\d.]+ GiB of memory are needed, [\d.]+ GiB are free; lower BATCH_SIZE", ended.stderr)
    assert "Traceback" not in ended.stderr
    assert json.loads((tmp_path / "results.json").read_text())["complete"] is False


def test_absent_platform_is_refused_with_what_is_missing(tmp_path):
    ended = predict("--platform", "CUDA", OUTPUT_DIR=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_reader_that_has_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        ended = subprocess.run([sys.executable, ROOT / "predict.py", "--help"], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == ""
    assert ended.returncode == 128 + signal.SIGPIPE


def test_what_no_engine_can_run_is_refused_before_earlier_results_are_moved(tmp_path):
    (tmp_path / "results.yaml").write_text("earlier\n")
    ended = predict("--engine", "openvino", "--precision", "fp16", OUTPUT_DIR=str(tmp_path))
    assert ended.returncode == 2
    assert "ERROR: PRECISION=fp16 with ENGINE=openvino on CPU is not possible; use fp32, bf16, int8\n" in ended.stderr
    assert not ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["results.yaml"]
