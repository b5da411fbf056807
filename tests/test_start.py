"""Entries, from the first line on."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A process that has SIGINT and SIGTERM held back, as run_model.sh has, and one of them waiting when Python starts.
WAITING = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
os.kill(os.getpid(), int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [("predict.py",), ("preprocess.py",), ("-m", "unet3d"), ("-OO", "predict.py")])
def test_a_signal_that_waits_since_before_python_is_answered_at_once(words, number):
    ended = subprocess.run(
        [sys.executable, "-c", WAITING, str(int(number)), *words, "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 128 + number
    assert ended.stdout == ""
    assert ended.stderr == f"ERROR: stopped by {number.name} before anything was measured\n"


@pytest.mark.parametrize("module", ["unet3d", "unet3d.start", "unet3d.signals", "signal"])
def test_ctrl_c_while_modules_are_imported_is_no_traceback(tmp_path, module):
    """The interrupt comes in the middle of an import, before any handler is there."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.modules.pop("signal", None)
"""
    )
    ended = subprocess.run(
        [sys.executable, ROOT / "predict.py", "--version"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert ended.returncode == 130
    assert ended.stderr == ""
