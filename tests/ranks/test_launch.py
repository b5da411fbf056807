"""Ranks under torchrun: pooled into one result, ended together, their cases each predicted once, nothing left behind."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import making
import psutil
import pytest
import rank_tasks

from unet3d.brats import folds, sample_data, training, weights
from unet3d.devices import topology
from unet3d.errors import BenchmarkError
from unet3d.planning.group import SingleProcess
from unet3d.ranks import launch
from unet3d.results.console import Console
from unet3d.results.record import Record
from unet3d.results.timing import summarise

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def ranks_environment(monkeypatch, tmp_path):
    """Ranks find the tasks, and are found by the variable that they inherit."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "ranks"))
    monkeypatch.setenv("RANKS_OF", str(tmp_path))


def two_ranks(monkeypatch, count=2):
    """Ranks share the cores where the machine has fewer."""
    cores = topology.cores()
    monkeypatch.setattr(topology, "cores", lambda: (cores * count)[: max(count, len(cores))])


def started(folder, **variables):
    """A plan and the record of its run in this folder."""
    folder.mkdir(exist_ok=True)
    values = {"precision": "fp32", "threads": 4, "network": "reference", "output_dir": folder}
    plan = making.plan_of(**{**values, **variables})
    plan.settings.output_dir.mkdir(exist_ok=True)
    return plan, Record(plan.settings)


def ranks_left(folder):
    """Processes of ranks whose log is in a folder's tree, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "rank" in words and process.environ().get("RANKS_OF") == str(folder):
                found.append(process)
    return found


def start(plan, record, task):
    """What `launch.run` raises or None, the lines that it and the ranks have printed, and its processes that are left."""
    log = record.settings.output_dir / "output_raw.log"
    out = Console(stream=SimpleNamespace(write=lambda text: None, flush=lambda: None))
    out.open_log(log)
    error = None
    try:
        launch.run(plan, record, out, f"rank_tasks:{task}")
        record.finish()
    except BenchmarkError as raised:
        error = raised
        record.finish(str(error))
    out.close()
    return error, log.read_text().splitlines(), ranks_left(os.environ["RANKS_OF"])


def test_ranks_start_together_and_are_pooled(tmp_path, monkeypatch):
    two_ranks(monkeypatch)
    plan, record = started(tmp_path, instances=2)
    error, lines, left = start(plan, record, "measure")
    assert error is None and not left
    assert [row["rank"] for row in record.ranks] == [0, 1]
    assert sorted(sample.rank for sample in record.samples) == [0] * rank_tasks.CALLS + [1] * rank_tasks.CALLS
    assert record.planned_calls == 2 * rank_tasks.CALLS
    own = [[sample for sample in record.samples if sample.rank == rank] for rank in (0, 1)]
    slowest = max(sum(sample.latency for sample in samples) for samples in own)
    assert summarise(record.samples).throughput == pytest.approx(2 * rank_tasks.CALLS / slowest)
    # The two windows overlap, on one clock: the barrier holds until the second rank is there.
    assert min(sample.start for sample in own[1]) < max(sample.start + sample.latency for sample in own[0])
    assert record.pool["slowest_rank"] == 1
    assert record.check.relative_error == 0.02 and record.load_seconds == {"build": 2.0}
    assert record.memory.peak_host_bytes == 200
    assert "uneven-ranks" in [warning.name for warning in record.warnings]
    assert {"INFO[1/2]: PERF_STATUS of rank 0", "INFO[2/2]: PERF_STATUS of rank 1"} <= set(lines)
    assert any(line.startswith("slowest: rank 1") for line in lines)


@pytest.mark.parametrize(
    ("task", "part", "code"),
    [
        ("rank_1_is_killed", r"^rank 1 of 2 \(cores? .*\), measuring: killed by SIGKILL \(exit code -9\)$", 5),
        ("rank_1_hangs", r"^rank 1 of 2 \(.*\), measuring: made no progress for 3 s \(RANK_TIMEOUT\); it was killed", 5),
        ("rank_1_refuses", r"^rank 1 of 2 \(.*\), .*: something is wrong here; mend it \(exit code 2\)$", 2),
        ("rank_1_breaks", r"^rank 1 of 2 \(.*\), .*: unexpected ZeroDivisionError: a defect \(exit code 70\)$", 70),
    ],
)
def test_a_rank_that_fails_ends_the_run_with_its_name_and_reason(tmp_path, monkeypatch, task, part, code):
    two_ranks(monkeypatch)
    plan, record = started(tmp_path, instances=2, rank_timeout=3)
    began = time.monotonic()
    error, _, left = start(plan, record, task)
    assert error is not None and re.search(part, str(error)), error
    assert error.exit_code == code
    assert not left
    assert time.monotonic() - began < 60, "the other rank was not ended"
    assert not record.complete and record.incomplete_reason == str(error)
    if code == 5:
        assert sorted(sample.rank for sample in record.samples) == [0] * rank_tasks.CALLS + [1] * 2
    assert (tmp_path / "traceback.log").exists() == (code == 70)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_two_nodes(tmp_path, monkeypatch, task):
    """Node 0 with one rank, node 1 with two, both on this machine: (record, error, lines) of each."""
    two_ranks(monkeypatch)
    port, found = free_port(), {}

    def node(number):
        plan, record = started(
            tmp_path, nnodes=2, node_rank=number, rdzv_endpoint=f"127.0.0.1:{port}", instances=1 + number, rank_timeout=60
        )
        error, lines, _ = start(plan, record, task)
        found[number] = (record, error, lines)

    threads = [threading.Thread(target=node, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [found[0], found[1]]


def test_two_nodes_meet_and_node_0_has_the_results(tmp_path, monkeypatch):
    (first, error, _), (second, other_error, lines) = on_two_nodes(tmp_path, monkeypatch, "measure")
    assert error is None and other_error is None
    assert [(row["rank"], row["node"]) for row in first.ranks] == [(0, 0), (1, 1), (2, 1)]
    assert len(first.samples) == 3 * rank_tasks.CALLS
    assert second.ranks == [] and second.settings.output_dir == tmp_path / "node1"
    assert any("INFO[3/3]: PERF_STATUS" in line for line in lines)


def test_a_rank_killed_on_one_node_ends_the_other_with_the_reason(tmp_path, monkeypatch):
    (first, error, _), (_, other_error, _) = on_two_nodes(tmp_path, monkeypatch, "rank_1_is_killed")
    assert "rank 1 of 3" in str(other_error) and "killed by SIGKILL" in str(other_error)
    assert "node 1: rank 1 of 3" in str(error) and "killed by SIGKILL" in str(error)
    assert error.exit_code == other_error.exit_code == 5
    assert not first.complete and {sample.rank for sample in first.samples} == {0}


def test_cases_are_shared_out_each_once_and_dice_is_that_of_one_rank(tmp_path, monkeypatch):
    data = tmp_path / "data"
    sample_data.make(data, cases=3, size=(48, 48, 31), processes=1)
    common = {"dummy": "no", "dataset_dir": data, "fold": 0, "num_images": "all"}
    plan, alone = started(tmp_path / "one", **common, threads=1)
    monkeypatch.setattr("unet3d.brats.folds.fold_names", folds.fold_names)  # put back what the task replaces
    silent = Console(stream=SimpleNamespace(write=lambda t: None, flush=lambda: None))
    rank_tasks.predict_cases(plan, alone, silent, SingleProcess())
    two_ranks(monkeypatch)
    plan, many = started(tmp_path / "two", **common, instances=2)
    error, _, _ = start(plan, many, "predict_cases")
    assert error is None
    parts = [(tmp_path / "two" / f"scored{rank}of2.txt").read_text().split() for rank in range(2)]
    assert [len(part) for part in parts] == [2, 1]
    assert sorted(name for part in parts for name in part) == sorted(alone.accuracy.cases)
    assert many.accuracy == alone.accuracy
    assert many.accuracy.of("WT") is not None


@pytest.mark.skipif(len(topology.cores()) < 2, reason="ranks of a real run need a core each")
def test_ctrl_c_ends_every_rank_and_leaves_the_samples_so_far(tmp_path):
    narrow = weights.random_weights(base_features=8, max_features=32)
    training.pack(tmp_path / "narrow.zip", narrow.plans, narrow.state_dict, [1.0])
    variables = {
        "PLATFORM": "CPU",
        "VOLUME_SHAPE": "64,64,64",
        "WEIGHTS": str(tmp_path / "narrow.zip"),
        "WARM_UP": "0",
        "PRECISION": "fp32",
        "JIT": "none",
        "NETWORK": "reference",
        "NUM_ITERATIONS": "100000",
        "STATUS_PRINTS": "100000",
        "THREADS": "2",
        "INSTANCES": "2",
        "OUTPUT_DIR": str(tmp_path / "output"),
    }
    running = subprocess.Popen(
        [sys.executable, ROOT / "predict.py"],
        env={**os.environ, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    seen = set()
    for line in running.stdout:
        if found := re.search(r"INFO\[([12])/2\]: PERF_STATUS\[", line):
            seen.add(found[1])
        if seen == {"1", "2"}:
            break
    assert len(ranks_left(tmp_path)) == 2, running.poll()
    os.killpg(running.pid, signal.SIGINT)  # what a terminal does
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in errors
    assert ranks_left(tmp_path) == []
    document = json.loads((tmp_path / "output" / "results.json").read_text())
    assert document["complete"] is False and document["incomplete_reason"] == "stopped by SIGINT"
    assert set(document["samples"]["rank"]) == {0, 1}
    assert not list((tmp_path / "output").glob(".*"))


@pytest.mark.parametrize("asks", [True, False], ids=["torch 2.13", "before"])
def test_ranks_start_with_every_torch_that_is_supported(monkeypatch, tmp_path, asks):
    """LaunchConfig with and without the field that says how long ranks may take to end."""
    from torch.distributed.launcher import api

    true = [field.name for field in dataclasses.fields(api.LaunchConfig) if field.name != "shutdown_timeout"]
    names = [*true, *(["shutdown_timeout"] if asks else [])]
    config = dataclasses.make_dataclass("LaunchConfig", [(name, object, None) for name in names])
    given = []
    monkeypatch.setattr(api, "LaunchConfig", config)
    monkeypatch.setattr(api, "elastic_launch", lambda settings, start: lambda *words: given.append(settings))
    agent = launch.Agent(making.settings_of(), 2, tmp_path / "job.pkl")
    assert not agent.alive(60) and agent.error is None
    [settings] = given
    assert settings.nproc_per_node == 2 and getattr(settings, "shutdown_timeout", None) == (5 if asks else None)
