"""Takes in each finished call: into the record, to the group, and now and then to console and files.

Where the host computes, all of it happens between two timed calls of the thread that made the call: no other thread prints or
draws while a call is timed. Where a device works beside the host, it happens meanwhile. The bar is drawn four times a second
at most.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from unet3d.planning.group import Group
from unet3d.progress import Phase
from unet3d.results import document
from unet3d.results.console import Console
from unet3d.results.record import Record
from unet3d.results.timing import Sample, summarise


def due(done: int, planned: int, prints: int) -> bool:
    """Whether a line is due after so many calls: `prints` of them evenly spread, the last one always, and where there are
    more calls than were planned as often again."""
    if done > planned:
        return done % max(1, round(planned / prints)) == 0
    # The line before this call, counted from one, is the last whose place has come by then.
    line = max(1, done * prints // planned)
    return any(round(planned * near / prints) == done for near in (line, line + 1) if near <= prints)


@contextlib.contextmanager
def collecting(record: Record, out: Console, group: Group) -> Iterator[Callable[[Sample], None]]:
    """What takes in a finished call, with a bar of them; `planned_calls` of the record says how many are expected."""
    with out.phase("measuring", record.planned_calls, "calls", ticks=False, told=False) as phase:
        yield Collector(record, out, group, phase).keep


class Collector:
    """`keep` may be called by several threads."""

    def __init__(self, record: Record, out: Console, group: Group, phase: Phase):
        self._record, self._out, self._group, self._phase = record, out, group, phase
        # As many as there are calls at most.
        self._prints = max(1, min(record.settings.status_prints, record.planned_calls))
        self._lock = threading.Lock()

    def keep(self, sample: Sample) -> None:
        """Note a finished call; where a PERF_STATUS line is due print it and write what there is so far."""
        record, settings = self._record, self._record.settings
        with self._lock:
            record.samples.append(sample)
            self._group.keep(sample)
            done, planned = len(record.samples), record.planned_calls
            self._phase.advance()
            if not due(done, planned, self._prints):
                return
            stats = summarise(record.samples, settings.streams)
            self._out.status(done, max(done, planned), stats, record.accuracy)
            # With streams the other calls' windows would hold the writing.
            if settings.streams == 1 and self._group.size == 1:
                document.write(record, settings.output_dir)
