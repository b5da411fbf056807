"""`unet3d.run` in somebody else's process: it measures, and leaves the process as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

import unet3d
from unet3d.errors import UserError
from unet3d.locks import FolderLock

ROOT = Path(__file__).parents[1]
SMALL = {"platform": "CPU", "precision": "fp32", "jit": "none", "weights": "sample", "volume_shape": (64, 32, 32), "warm_up": 0}
# A fresh process: what an earlier test has imported or set would hide what a run sets.
CALLER = f"""
import os, signal, sys

def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    descriptors = [os.fstat(number)[:3] for number in (0, 1, 2)]
    return handlers, descriptors, (sys.stdin, sys.stdout, sys.stderr), dict(os.environ)

signal.signal(signal.SIGTERM, lambda *_: None)
before = state()
import unet3d
assert state() == before
result = unet3d.run(num_iterations=2, output_dir=sys.argv[1], **{SMALL!r})
after = state()
for one, other in zip(before, after):
    assert one == other, (one, other)
assert result.statistics.calls == 2
"""


def test_a_run_leaves_its_callers_process_as_it_was(tmp_path):
    ended = subprocess.run([sys.executable, "-c", CALLER, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_earlier_results_are_kept_and_a_run_under_way_is_not_disturbed(tmp_path):
    (tmp_path / "results.json").write_text("an earlier run")
    with FolderLock(tmp_path, "OUTPUT_DIR"), pytest.raises(UserError, match="in use by another run"):
        unet3d.run(output_dir=tmp_path, num_iterations=1, **SMALL)
    unet3d.run(output_dir=tmp_path, num_iterations=1, **SMALL)
    [kept] = tmp_path.glob("results.*.json")
    assert kept.read_text() == "an earlier run"
    assert '"complete": true' in (tmp_path / "results.json").read_text()
    assert not (tmp_path / ".lock").exists()
