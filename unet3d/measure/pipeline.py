"""Volumes on their way through an engine, for every mode: read, stage, infer, labels, hand on; in order, each once.

Where a device works beside the host, the steps of other volumes run while the network works on one, and nothing waits
between two calls: threads read and stage into the engine's slots, this one starts the calls, another one takes labels, a last
one hands on. At most `engine.depth` volumes are in slots, and BACKLOG are being handed on.

Where the host itself computes, its cores are the network's during a call. Staging and labels have all of them between two
calls; only the next volume is read meanwhile, which is waiting for files for the most part. What hands on between the calls or
beside them is the caller's choice.

The first error in any step ends the others and is raised.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from unet3d.engines.base import Engine, Finished
from unet3d.results.timing import Sample

Answer = TypeVar("Answer")
Volumes = TypeVar("Volumes")
# Told of each finished call: its number, its times, and uint8 labels [N, z, y, x].
HandOn = Callable[[int, Sample, np.ndarray], None]

# Calls whose sample and labels may wait to be handed on: a written file costs no device its time.
BACKLOG = 4
# A thread that has work for the device waits no longer than this for Python's lock; the default is 5 ms, a whole network soon.
SWITCH_S = 0.0005


def timed_call(
    engine: Engine, stage: Callable[[], Any], answer: Callable[[Any], Answer], window: float = 0.0
) -> tuple[Sample, Answer]:
    """One inference with the host's work around it: the only place where the host's clock is read for a sample.

    stage: makes the volumes ready for `infer`. answer: what is done with the output, outside of the latency.
    window: when the measured window began, by `perf_counter`. The sample's volumes, stream and cases are the caller's.
    """
    begin = perf_counter()
    staged = stage()
    start = perf_counter()
    output = engine.infer(staged)
    end = perf_counter()
    result = answer(output)
    return Sample(start=start - window, latency=end - start, stage=start - begin, post=perf_counter() - end), result


def run(
    engine: Engine,
    count: int,
    read: Callable[[int], Volumes],
    hand_on: HandOn,
    *,
    stage: Callable[[Volumes, int], Any] | None = None,
    window: float = 0.0,
    beside: bool = False,
) -> None:
    """Make `count` calls, numbered from 0.

    read: the volumes of a call, in several threads at a time. stage: from these and a slot to what the engine takes; by
    default `engine.stage`. hand_on: is called in the order of the numbers, never twice at a time. beside: hand on while
    the next call runs, also where the host computes. window: as for `timed_call`.

    Raises:
        Whatever a step raises; calls before it were handed on, none after it is.
    """
    make_ready: Callable[[Any, int], Any] = stage or engine.stage
    if not count:
        return
    if engine.depth > 1:
        _overlapped(engine, count, read, make_ready, hand_on, window)
    else:
        _in_turn(engine, count, read, make_ready, hand_on, window, beside)


def _in_turn(
    engine: Engine,
    count: int,
    read: Callable[[int], Any],
    stage: Callable[[Any, int], Any],
    hand_on: HandOn,
    window: float,
    beside: bool,
) -> None:
    with _threads(1, "reading", give_up=True) as reader, _threads(1, "handing-on") as hander:
        reading = deque([reader.submit(read, 0)])
        handing: Future[None] | None = None

        def staged() -> Any:
            ready = stage(reading.popleft().result(), 0)
            # Only now: a second thread at work would slow the conversion.
            if index + 1 < count:
                reading.append(reader.submit(read, index + 1))
            return ready

        for index in range(count):
            sample, labels = timed_call(engine, staged, engine.labels, window)
            if not beside:
                hand_on(index, sample, labels)
                continue
            if handing is not None:
                handing.result()
            handing = hander.submit(hand_on, index, sample, labels)
        if handing is not None:
            handing.result()


def _overlapped(
    engine: Engine,
    count: int,
    read: Callable[[int], Any],
    stage: Callable[[Any, int], Any],
    hand_on: HandOn,
    window: float,
) -> None:
    depth, clock = engine.depth, _Clock(window)
    untaken, unhanded = threading.Event(), threading.Event()
    taken: dict[int, Future[None]] = {}
    handed: dict[int, Future[None]] = {}

    def ready(index: int) -> tuple[Any, float, float]:
        """What the engine takes, when this began, and its seconds; waits until the slot is free."""
        if index >= depth:
            taken.pop(index - depth).result()
        begin = perf_counter()
        staged = stage(read(index), index % depth)
        return staged, begin, perf_counter() - begin

    def take(index: int, begin: float, staging: float) -> None:
        """Wait for a call; its slot is free afterwards."""
        if untaken.is_set():
            return
        with _first_error(untaken):
            finished = engine.finish(index % depth)
            sample, labels = clock.sample(finished, begin, staging), finished.labels.copy()
            if index >= BACKLOG:
                handed.pop(index - BACKLOG).result()
        handed[index] = hander.submit(give, index, sample, labels)

    def give(index: int, sample: Sample, labels: np.ndarray) -> None:
        if unhanded.is_set():
            return
        with _first_error(unhanded):
            hand_on(index, sample, labels)

    with (
        _quick_switching(),
        _threads(1, "handing-on") as hander,
        _threads(1, "labels") as taker,
        _threads(depth - 1, "staging", give_up=True) as stager,
    ):
        waiting = deque(stager.submit(ready, index) for index in range(min(depth, count)))
        for index in range(count):
            staged, begin, staging = waiting.popleft().result()
            engine.start(staged, index % depth)
            taken[index] = taker.submit(take, index, begin, staging)
            if index + depth < count:
                waiting.append(stager.submit(ready, index + depth))
        for left in (taken, handed):
            for index in sorted(left):
                left[index].result()


@contextlib.contextmanager
def _first_error(failed: threading.Event) -> Iterator[None]:
    """Note an error of the body: what comes after it in order must not be handed on."""
    try:
        yield
    except BaseException:
        failed.set()
        raise


class _Clock:
    """Samples of calls that overlap: their ends by the device's clock, put onto the host's at the first one."""

    def __init__(self, window: float):
        self._window, self._ended = window, 0.0
        self._before: Finished | None = None

    def sample(self, finished: Finished, begin: float, staging: float) -> Sample:
        """Of the next call. begin, staging: when its staging began, and its seconds."""
        if self._before is None:
            ended = perf_counter()
            on_the_clock = ended - begin
        else:
            on_the_clock = finished.seconds_since(self._before)
            ended = self._ended + on_the_clock
        self._before, self._ended = finished, ended
        own = staging + finished.latency + finished.post
        return Sample(
            start=ended - finished.post - finished.latency - self._window,
            latency=finished.latency,
            # What nothing explains, the device has waited for the host.
            stage=staging + max(0.0, on_the_clock - own),
            post=finished.post,
            hidden=max(0.0, own - on_the_clock),
        )


@contextlib.contextmanager
def _threads(count: int, name: str, give_up: bool = False) -> Iterator[ThreadPoolExecutor]:
    """Threads that take what is submitted in its order and finish it when the body ends.

    give_up: when the body ends drop what has not begun.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=give_up)


@contextlib.contextmanager
def _quick_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
