"""Sweeps: whole ones in processes of their own on small volumes, what they resume, and how they end."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_gpu import FakeRuntime, HostGpu
from made_results import results
from making import settings_of

from unet3d import places
from unet3d.commands.sweep import conduct, process, resume, tables
from unet3d.commands.sweep.grid import Configuration
from unet3d.devices import host

ROOT = Path(__file__).parents[2]
SMALL = {"PLATFORM": "CPU", "VOLUME_SHAPE": "64,32,32", "WEIGHTS": "sample", "WARM_UP": "0"}
GRID = "name,precision,jit,batch_size,num_iterations\ntoo-large,fp32,none,100000,1\n,FP32,none,1,2\n"


def environment(**variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return {**clean, **SMALL, **variables}


def sweep(program, *words, **variables):
    return subprocess.run(
        [sys.executable, program, "--sweep", *words],
        capture_output=True,
        text=True,
        env=environment(**variables),
        cwd=program.parent,
        timeout=300,
    )


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """predict.py of a copy: what is edited or committed here meanwhile would rightly void what was measured before."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("unet3d", "samples", "folds"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.copy(ROOT / "predict.py", root))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, program):
    """A sweep of two configurations, the first of which cannot get its memory."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "grid.csv").write_text(GRID)
    ended = sweep(program, "--grid", str(folder / "grid.csv"), OUTPUT_DIR=str(folder), SEED="7")
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_a_failing_configuration_is_in_the_table_with_its_reason(finished):
    document = json.loads((finished[0] / "sweep" / "sweep.json").read_text())
    assert document["complete"] is True
    assert [(row["name"], row["status"]) for row in document["rows"]] == [
        ("fp32-none-batch-size-1-num-iterations-2", "measured"),
        ("too-large", "failed"),
    ]
    assert "GiB of memory are needed" in document["rows"][1]["reason"]
    markdown = (finished[0] / "sweep" / "sweep.md").read_text()
    assert "| too-large | failed |" in markdown
    assert "GiB of memory are needed" in finished[1]
    # Two calls on another volume than the benchmark's: the run warned, so must the table.
    assert "few-samples: all configurations" in markdown
    assert "other-volume: all configurations" in markdown


def test_figures_are_those_of_the_runs_own_results(finished):
    folder = finished[0] / "sweep"
    row = json.loads((folder / "sweep.json").read_text())["rows"][0]
    results = json.loads((folder / row["results"]).read_text())
    latencies = sorted(results["samples"]["latency_ms"])
    assert len(latencies) == row["calls"] == 2
    assert (row["latency_p50_ms"], row["latency_p90_ms"]) == tuple(latencies)
    assert row["throughput_img_per_s"] == pytest.approx(2 / (sum(latencies) / 1e3))
    assert row["tflop_per_s"] == pytest.approx(row["throughput_img_per_s"] * results["volume"]["tflop"])
    assert row["relative_error"] == results["check"]["relative_error"] < 1e-3
    assert row["peak_host_gib"] * 2**30 == pytest.approx(results["memory"]["peak_host_bytes"])
    with open(folder / "sweep.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["throughput_img_per_s"]) == row["throughput_img_per_s"]
    assert first["command"] == row["command"]


def test_settings_around_the_sweep_reach_every_configuration(finished):
    row = json.loads((finished[0] / "sweep" / "sweep.json").read_text())["rows"][0]
    requested = json.loads((finished[0] / "sweep" / row["results"]).read_text())["settings"]["requested"]
    assert requested["seed"] == 7
    assert requested["volume_shape"] == [64, 32, 32]
    # The command to copy holds them all, so that it is the same run in a shell without these variables.
    words = shlex.split(row["command"])
    assert words[0] == "./run_model.sh"
    flags = dict(zip(words[1::2], words[2::2], strict=True))
    assert {
        "--seed": "7",
        "--volume-shape": "64,32,32",
        "--precision": "fp32",
        "--jit": "none",
        "--weights": "sample",
    }.items() <= flags.items()


def test_what_is_there_is_not_run_again_unless_fresh(finished, program):
    folder = finished[0]
    results = folder / "sweep" / "fp32-none-batch-size-1-num-iterations-2" / "results.json"
    before = results.stat().st_mtime_ns
    again = sweep(program, "--grid", str(folder / "grid.csv"), OUTPUT_DIR=str(folder), SEED="7")
    assert again.returncode == 0
    assert "1 to run, 1 there already" in again.stdout
    assert results.stat().st_mtime_ns == before
    assert "highest throughput: fp32-none-batch-size-1-num-iterations-2" in again.stdout


def test_results_stand_only_for_the_same_fingerprint(finished):
    folder = finished[0] / "sweep" / "fp32-none-batch-size-1-num-iterations-2"
    now = resume.read_state(folder)["fingerprint"]
    assert resume.earlier(folder, now)["complete"] is True
    for change in (
        {"settings": {**now["settings"], "seed": 8}},
        {"weights_sha256": "0" * 64},
        {"git_commit": "0" * 40},
        {"code_sha256": "0" * 64},
        {"versions": {}},
        {"prefix": ["nice"]},
        {"cpu": "another"},
        {"device": "another"},
        {"driver": "another"},
    ):
        assert resume.earlier(folder, {**now, **change}) is None, change


def test_results_of_another_run_in_the_folder_do_not_count(finished, tmp_path):
    folder = finished[0] / "sweep" / "fp32-none-batch-size-1-num-iterations-2"
    state = (folder / resume.STATE).read_text()
    now = json.loads(state)["fingerprint"]
    (tmp_path / resume.STATE).write_text(state)
    whole = json.loads((folder / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(whole))
    assert resume.earlier(tmp_path, now) is not None
    for change in (
        {"complete": False, "incomplete_reason": "stopped by SIGINT"},
        {"weights": {**whole["weights"], "sha256": "0" * 64}},
        {"environment": {**whole["environment"], "hardware": {**whole["environment"]["hardware"], "device": "a GPU"}}},
        {"statistics": None},
        {"statistics": {**whole["statistics"], "throughput": 1.5 * whole["statistics"]["throughput"]}},
        {"samples": {**whole["samples"], "latency_ms": [float("inf")] * 2}},
    ):
        document = {**whole, **change}
        (tmp_path / "results.json").write_text(json.dumps(document))
        assert resume.earlier(tmp_path, now) is None, change


@pytest.fixture
def sweep_on(tmp_path, monkeypatch):
    """Sweeps one configuration on a made-up GPU of this name and driver, where a run takes no time; returns how many ran."""
    settings = settings_of(precision="bf16", network="reference", threads=4, num_iterations=3)
    ran = []

    def run_one(words, folder, **_):
        doc = results()
        doc["benchmark"]["git_commit"] = host.git_state(places.ROOT)[0]
        doc["environment"]["hardware"] = host.with_device(host.hardware(), HostGpu())
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text(json.dumps(doc))
        ran.append(folder)
        return process.Outcome(1.0, 0, process.complete_results(folder), None)

    monkeypatch.setattr(process, "run", run_one)

    def sweep_on(name, driver):
        monkeypatch.setattr(HostGpu, "fake", FakeRuntime(name=name))
        monkeypatch.setattr(HostGpu, "driver_version", driver)
        planned = conduct.Planned(Configuration("one", {}), settings, HostGpu(), "./run_model.sh")
        before = len(ran)
        assert conduct.Sweep(tmp_path, [planned], [], [], [], None, "again").run(fresh=False) == 0
        return len(ran) - before

    return sweep_on


def test_another_gpus_results_do_not_stand_for_this_ones(sweep_on, tmp_path):
    assert [sweep_on("Card A", "570.86"), sweep_on("Card A", "570.86")] == [1, 0]
    assert [sweep_on("Card B", "570.86"), sweep_on("Card B", "580.12")] == [1, 1]
    told = json.loads((tmp_path / "sweep.json").read_text())
    assert told["hardware"]["device"] == "Card B"
    assert "Card B (1 GiB, driver 580.12)" in (tmp_path / "sweep.md").read_text()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"seconds": "5"}', '{"seconds": -1}', '{"seconds": 1e999}', '{"seconds": [1]}', "[" * 100_000, "\xff"]
)
def test_a_state_that_is_none_is_no_state(tmp_path, text):
    (tmp_path / resume.STATE).write_bytes(text.encode("latin-1"))
    assert resume.read_state(tmp_path) == {}


@pytest.mark.timeout(20)  # a pipe that is waited for never ends
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("[" * 100_000), lambda path: path.write_text("[]")])
def test_a_table_that_is_none_is_moved_aside(tmp_path, make):
    make(tmp_path / "sweep.json")
    conduct.Sweep(tmp_path, [], [], [], [], None, "again")._keep_other_tables(fresh=False)
    assert len(list(tmp_path.glob("sweep.*.json"))) == 1


def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(tmp_path):
    (tmp_path / "grid.yaml").write_text("- {precision: fp32, jit: [none, trace]}\n")
    running = subprocess.Popen(
        [sys.executable, ROOT / "predict.py", "--sweep", "--grid", tmp_path / "grid.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(OUTPUT_DIR=str(tmp_path), NUM_ITERATIONS="100000"),
    )
    for line in running.stdout:
        if line.startswith("[1/2]"):
            break
    console = tmp_path / "sweep" / "fp32-none" / "console.log"
    while running.poll() is None and "warm-up" not in (console.read_text() if console.exists() else ""):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert errors == ""
    assert f"To go on: ./run_model.sh --sweep --grid {tmp_path / 'grid.yaml'}" in output
    document = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert document["complete"] is False
    assert [row["status"] for row in document["rows"]] == ["not run", "not run"]
    assert json.loads((tmp_path / "sweep" / "fp32-none" / "results.json").read_text())["complete"] is False


def sleeper(text):
    """A prefix that stands for a run which never ends, after it has done what `text` says."""
    return [sys.executable, "-c", f"import time\n{text}\ntime.sleep(600)"]


def test_a_configuration_over_its_time_is_stopped(tmp_path):
    outcome = process.run([], tmp_path, prefix=sleeper(""), time_limit=1.5)
    assert outcome.document is None
    assert outcome.reason == "stopped after the time limit of 1.5 s"
    assert outcome.exit_code == -signal.SIGTERM


def test_a_crash_is_told_by_its_signal(tmp_path):
    outcome = process.run([], tmp_path, prefix=[sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert outcome.reason.startswith("ended by SIGSEGV")
    nameless = process.run([], tmp_path, prefix=[sys.executable, "-c", "import os; os.kill(os.getpid(), 40)"])
    assert nameless.reason.startswith("ended by signal 40")
    missing = process.run([], tmp_path, prefix=["/no/such/program"])
    assert "/no/such/program cannot be started" in missing.reason


def test_a_run_that_fails_does_not_inherit_earlier_results(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"complete": True, "statistics": {"calls": 1}}))
    outcome = process.run([], tmp_path, prefix=[sys.executable, "-c", "pass"])
    assert outcome.document is None
    assert len(list(tmp_path.glob("results.*.json"))) == 1


def row(name, throughput, latency, dice=None, precision="fp32"):
    return {
        "name": name,
        "status": "measured",
        "throughput_img_per_s": throughput,
        "latency_p50_ms": latency,
        "dice": dice,
        "dice_minus_fp32": None,
        "precision": precision,
    }


def test_ranking_winners_and_dice_against_fp32():
    rows = [row("a", 1.0, 900, 0.85), {"name": "b", "status": "failed"}, row("c", 3.0, 1500, 0.84, "int8")]
    ranked = tables.ranked(rows)
    assert [(row["name"], row.get("rank")) for row in ranked] == [("c", 1), ("a", 2), ("b", None)]
    assert ranked[0]["dice_minus_fp32"] == pytest.approx(-0.01)
    assert {what: row["name"] for what, row in tables.winners(rows).items()} == {
        "lowest latency": "a",
        "highest throughput": "c",
    }
