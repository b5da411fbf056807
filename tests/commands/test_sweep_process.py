"""A run that another process has started does not outlive it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

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
    finally:
        started = psutil.Process(caller.pid).children()
        caller.kill()
        caller.wait()
        _, alive = psutil.wait_procs(started, timeout=LIMIT_S)
        for left in alive:
            left.kill()
    assert len(started) == 1 and not alive
    document = json.loads((tmp_path / "results.json").read_text())
    assert not document["complete"] and "SIGTERM" in document["incomplete_reason"]
    assert signals.CALLER not in document["environment"]["variables"]


@pytest.mark.parametrize("caller", ["1", "99999999999999999999", "²", "", "x"])
def test_another_parent_than_the_caller_changes_nothing(caller):
    """Under a command that stays, in a container, or where somebody has set the variable."""
    code = "import os; from unet3d import signals; signals.end_with_caller(); print('went on', signals.CALLER in os.environ)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, signals.CALLER: caller}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"went on False\n", b"")
