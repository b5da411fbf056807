"""What takes long names itself: on a terminal as one live line, elsewhere as a line at its start and one at its end.

Any floor opens a `phase`; where it appears is decided by whoever prints, with `shown_on`. Without that it is standard
error, so that a verb's answer on standard output stays clean.

The line is drawn by ourselves. rich and tqdm redraw from threads of their own up to ten times a second, tqdm on another
stream than our lines, and both know nothing of the log or of ranks that share a terminal. Nothing here may disturb a
measurement:

- A phase's line is redrawn once a second by a thread that sleeps in between. A redraw is one write of some 80 bytes,
  about 0.1 ms of one core; phases hold no timed call.
- `ticks=False` is for timed calls: no thread is started. Who measures draws, between two calls, four times a second
  at most.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from time import localtime, monotonic, strftime, time
from typing import TextIO

LONG_S = 5.0  # a phase that took longer says so at its end
TICK_S, REDRAW_S = 1.0, 0.25
COLUMNS = 80  # where there is no terminal that has others
BAR, LEAST_BAR = 24, 8
ERASE = "\r\x1b[K"


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 1 min 20 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches this stream."""
    return bool(getattr(stream, "isatty", lambda: False)())


def columns(stream: TextIO) -> int:
    """Characters in a line of the stream: the terminal's, elsewhere 80."""
    if is_terminal(stream):
        with contextlib.suppress(OSError):
            return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    return COLUMNS


class Phase:
    """Something that takes long. `total`: of steps, where it is known; `done`: how many are behind it."""

    def __init__(self, name: str, total: int | None, unit: str, ticks: bool, redraw: Callable[[], None]):
        self.name, self.total, self.unit, self.ticks = name, total, unit, ticks
        self.done, self.note, self.begun = 0, "", monotonic()
        self._redraw, self._drawn = redraw, 0.0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return monotonic() - self.begun

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""
        self.done += steps
        if self.total is not None:
            self.total = max(self.total, self.done)
        self._now()

    def say(self, note: str) -> None:
        """What it is at."""
        self.note = note
        self._now()

    def _now(self) -> None:
        if monotonic() - self._drawn >= REDRAW_S or self.done == self.total:
            self._drawn = monotonic()
            self._redraw()

    def line(self, width: int) -> str:
        """Its live line, not longer than `width` characters; ASCII where its name and note are."""
        name = f"{self.name} ({self.note})" if self.note else self.name
        if not self.total:
            return f"{name}: {duration(self.seconds)}"[:width]
        after = f" {self.done}/{self.total} {self.unit}".rstrip() + self._rest()
        room = min(BAR, width - len(name) - len(after) - 3)
        full = room * self.done // self.total
        bar = f" [{'#' * full}{'-' * (room - full)}]" if room >= LEAST_BAR else ""
        return (name + bar + after)[:width]

    def _rest(self) -> str:
        if not self.done or self.total is None:
            return "" if not self.ticks else f", {duration(self.seconds)}"
        left = self.seconds / self.done * (self.total - self.done)
        if not left:
            return ""
        if self.ticks:
            return f", about {duration(left)} left"
        # This line stands still during a long call: a time of day stays right.
        return strftime(", until about %H:%M:%S", localtime(time() + left))


class Display:
    """A stream with the phases that are open on it. `muted`: shows none, for ranks that would repeat what rank 0 shows."""

    def __init__(self, stream: TextIO | None = None, muted: bool = False):
        self._given, self._muted, self._ended = stream, muted, False
        # Re-entrant: a signal's handler may print while its thread draws.
        self._lock = threading.RLock()
        self._open: list[Phase] = []
        self._visible = False

    @property
    def stream(self) -> TextIO:
        """Where it is shown; standard error of the moment where none was given."""
        return self._given or sys.stderr

    @property
    def on_terminal(self) -> bool:
        """Whether lines are read by somebody who watches."""
        return is_terminal(self.stream)

    @property
    def live(self) -> bool:
        """Whether a line can be drawn again: not on terminals that cannot erase."""
        return not (self._muted or self._ended) and self.on_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "")

    def put(self, text: str) -> None:
        """Print a line, or several, above the live one."""
        with self._lock:
            self._erase()
            print(text, file=self.stream, flush=True)
            self._draw()

    def say(self, text: str, drawn: bool = False) -> None:
        """Tell of a phase. drawn: a live line shows the same."""
        if not (drawn and self.live):
            self.put(text)

    def clear(self) -> None:
        """Erase a live line that another process, such as a rank, has left on the same terminal."""
        with self._lock:
            if self.live:
                self._write(ERASE)

    def end(self) -> None:
        """Erase the live line for good; lines are printed as before."""
        with self._lock:
            self.clear()
            self._visible, self._ended = False, True

    @contextlib.contextmanager
    def phase(
        self, name: str, total: int | None = None, unit: str = "", ticks: bool = True, told: bool = True
    ) -> Iterator[Phase]:
        """What the body does, shown while it lasts; see the module's text for `ticks`.

        Where there is no live line the phase is told at its start, and everywhere at its end where it took more than
        LONG_S seconds. told: False where the caller says so in words of its own.
        """
        phase = Phase(name, total, unit, ticks, self._draw_now)
        if self._muted:
            yield phase
            return
        if told:
            self.say(name, drawn=True)
        ended = threading.Event()
        with self._lock:
            self._open.append(phase)
            self._draw()
        if ticks and self.live:
            threading.Thread(target=self._tick, args=(phase, ended), name="progress", daemon=True).start()
        try:
            yield phase
        finally:
            ended.set()
            with self._lock:
                self._open.remove(phase)
                self._erase()
                self._draw()
        if told and phase.seconds > LONG_S:
            self.say(f"{name}: done in {duration(phase.seconds)}")

    def _tick(self, phase: Phase, ended: threading.Event) -> None:
        while not ended.wait(TICK_S):
            with self._lock:
                if not ended.is_set() and self._open[-1] is phase:
                    self._draw()

    def _draw_now(self) -> None:
        with self._lock:
            self._draw()

    def _draw(self) -> None:
        if self._open and self.live:
            # One column is left free: some terminals go to the next line when the last one is filled.
            self._write(ERASE + self._open[-1].line(columns(self.stream) - 1))
            self._visible = True

    def _erase(self) -> None:
        if self._visible:
            self._write(ERASE)
            self._visible = False

    def _write(self, text: str) -> None:
        # A terminal that has gone away is told by the next line that matters.
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()


_displays: list[Display] = [Display()]


@contextlib.contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Phases that any thread opens during the body appear on this display."""
    _displays.append(display)
    try:
        yield
    finally:
        _displays.remove(display)


def phase(name: str, total: int | None = None, unit: str = "", ticks: bool = True) -> contextlib.AbstractContextManager[Phase]:
    """`Display.phase` on the display of the moment."""
    return _displays[-1].phase(name, total, unit, ticks)
