"""Progress on a real terminal (a pty), in pipes, and what a live line may not do."""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from unet3d import progress
from unet3d.progress import ERASE, Display

ROOT = Path(__file__).parents[1]


def on_terminal(program, width=80, **variables):
    """What a terminal of this width shows of a Python program: (everything that was written, the lines that stay)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    words = [sys.executable, *program] if isinstance(program, list) else [sys.executable, "-c", program]
    running = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**os.environ, "TERM": "xterm", **variables}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # what Linux says when the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    running.wait(60)
    text = written.decode()
    return text, [line.rpartition(ERASE)[2] for line in text.replace("\r\n", "\n").split("\n")]


LONG_PHASE = """
import time
from unet3d import progress
progress.LONG_S, progress.TICK_S = 0.3, 0.05
with progress.phase("quantising"):
    time.sleep(0.4)
with progress.phase("reading"):
    pass
"""


def test_a_long_phase_ticks_on_a_terminal_and_leaves_one_line():
    text, lines = on_terminal(LONG_PHASE)
    assert text.count("quantising: 0 s") >= 4
    assert lines == ["quantising: done in 0 s", ""]


def test_a_long_phase_in_a_pipe_is_a_line_at_its_start_and_one_at_its_end():
    ended = subprocess.run([sys.executable, "-c", LONG_PHASE], capture_output=True, text=True, cwd=ROOT)
    assert ended.stderr.splitlines() == ["quantising", "quantising: done in 0 s", "reading"]
    assert ended.stdout == ""


def test_a_terminal_that_cannot_erase_gets_lines():
    text, lines = on_terminal(LONG_PHASE, TERM="dumb")
    assert "\x1b" not in text
    assert lines == ["quantising", "quantising: done in 0 s", "reading", ""]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_live_line_never_fills_the_terminals_width(width):
    text, _ = on_terminal(
        """
from unet3d import progress
with progress.phase("a phase with a long name, " * 3, 100000, "volumes") as phase:
    phase.say("what it is at, in many words that have no room")
    phase.advance(50000)
with progress.phase("cases", 7, "cases") as phase:
    phase.advance(7)
""",
        width,
    )
    drawn = [part.rstrip("\r\n") for part in text.split(ERASE)]
    assert max(map(len, drawn)) < width
    assert any("cases" in part and ("#" * 8 in part) == (width > 30) for part in drawn)


def test_no_colour_and_no_other_character_than_ascii_in_a_bar():
    text, _ = on_terminal(LONG_PHASE, NO_COLOR="1", LC_ALL="C", PYTHONUTF8="0")
    assert text.isascii()
    assert "\x1b[3" not in text and "\x1b[0m" not in text


def test_lines_are_printed_above_the_live_one():
    _, lines = on_terminal(
        """
import sys
from unet3d.progress import Display
display = Display(sys.stdout)
with display.phase("measuring", 2, "calls", ticks=False, told=False) as phase:
    phase.advance()
    display.put("a status line")
    phase.advance()
display.put("the end")
"""
    )
    assert lines == ["a status line", "the end", ""]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_timed_calls_start_no_thread_and_are_drawn_four_times_a_second_at_most(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream, before, clock = Terminal(), threading.active_count(), [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    with Display(stream).phase("measuring", 1000, "calls", ticks=False, told=False) as phase:
        assert threading.active_count() == before
        for _ in range(1000):
            clock[0] += 0.01
            phase.advance()
    assert 35 <= stream.getvalue().count("calls") <= 45  # ten seconds, the first and the last


def test_a_muted_display_shows_nothing_and_an_ended_one_is_not_drawn_again(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Display(stream, muted=True).phase("predicting", 2, "cases") as phase:
        phase.advance()
    assert stream.getvalue() == ""
    display = Display(stream)
    with display.phase("predicting", 2, "cases") as phase:
        display.end()
        length = len(stream.getvalue())
        phase.advance()
        assert len(stream.getvalue()) == length and stream.getvalue().endswith(ERASE)


def test_phases_of_lower_floors_appear_on_the_display_of_the_moment():
    stream = io.StringIO()
    with progress.shown_on(Display(stream)), progress.phase("compiling"):
        pass
    assert stream.getvalue() == "compiling\n"


def test_a_phase_that_fails_is_not_said_to_be_done(monkeypatch):
    monkeypatch.setattr(progress, "LONG_S", -1.0)
    stream = io.StringIO()
    with pytest.raises(ValueError), Display(stream).phase("exporting"):
        raise ValueError
    assert stream.getvalue() == "exporting\n"


def test_a_terminal_that_goes_away_does_not_end_a_phase():
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    display = Display(Gone())
    with display.phase("warming up", told=False) as phase:
        phase.say("call 1")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (80, "1 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_said_as_people_do(seconds, text):
    assert progress.duration(seconds) == text


def test_a_whole_run_on_a_terminal_is_short_there_and_whole_in_the_log(tmp_path):
    settings = {"PLATFORM": "CPU", "VOLUME_SHAPE": "64,32,32", "WEIGHTS": "sample", "PRECISION": "fp32", "JIT": "none"}
    words = [str(ROOT / "predict.py"), "--num-iterations", "6", "--status-prints", "2", "--warm-up", "1"]
    text, lines = on_terminal(words, **settings, OUTPUT_DIR=str(tmp_path))
    log = (tmp_path / "output_raw.log").read_text()
    assert "measuring [####--------------------] 1/6 calls, until about" in text
    assert "PERF_STATUS" not in text and log.count("INFO[1/1]: PERF_STATUS[") == 2
    status = [line for line in lines if "with overhead" in line]
    assert len(status) == 2 and max(map(len, status)) <= 80
    for name in ("loading the network", "checking the output against fp32", "warming up"):
        assert name in text and f"INFO[1/1]: {name}" in log
    verdict = lines[-3]
    assert "volumes/s" in verdict and f"{verdict}\n" in log
