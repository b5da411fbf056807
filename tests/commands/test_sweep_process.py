"""A run that another process has started does not outlive it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil

from unet3d import signals

ROOT = Path(__file__).parents[2]
CALL = "import sys, pathlib; from unet3d.commands.sweep import process; process.run(sys.argv[2:], pathlib.Path(sys.argv[1]))"
SMALL = {"platform": "CPU", "precision": "fp32", "jit": "none", "weights": "sample", "volume-shape": "64,32,32"}
# Results are written with each status line, which is every other call.
ENDLESS = [f"--{name}={value}" for name, value in {**SMALL, "num-iterations": 100_000, "status-prints": 50_000}.items()]
LIMIT_S = 120


def calls_made(folder):
    path = folder / "results.json"
    return len(json.loads(path.read_text())["samples"]["latency_ms"]) if path.exists() else 0


def test_a_run_whose_caller_is_killed_ends_with_the_results_so_far(tmp_path):
    caller = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path), *ENDLESS], cwd=ROOT)
    try:
        until = monotonic() + LIMIT_S
        while not calls_made(tmp_path):
            assert caller.poll() is None and monotonic() < until
            sleep(0.2)
        [run] = psutil.Process(caller.pid).children()
    finally:
        caller.kill()
        caller.wait()
    _, alive = psutil.wait_procs([run], timeout=LIMIT_S)
    assert not alive
    document = json.loads((tmp_path / "results.json").read_text())
    assert not document["complete"] and "SIGTERM" in document["incomplete_reason"]
    assert signals.CALLER not in document["environment"]["variables"]


def test_a_caller_that_has_ended_before_is_noticed():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "from unet3d import signals; signals.end_with_caller(); print('went on')"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, signals.CALLER: str(gone.pid)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGTERM and not ended.stdout
