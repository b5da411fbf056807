"""The loop that makes the timed calls, in one stream or in several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from unet3d.brats.volumes import Volumes
from unet3d.engines.base import Engine
from unet3d.measure import pipeline
from unet3d.measure.pipeline import timed_call
from unet3d.planning.group import Group
from unet3d.planning.plan import Plan
from unet3d.results.timing import Sample

if TYPE_CHECKING:
    import numpy as np

Answer = TypeVar("Answer")


def timed(call: Callable[..., Answer], *arguments: object) -> tuple[Answer, float]:
    """The call's result and its seconds."""
    start = perf_counter()
    result = call(*arguments)
    return result, perf_counter() - start


# Shown of a call that has ended: a function that makes its volumes again, its cases, and a function that makes its labels.
Look = Callable[[Callable[[], "np.ndarray"], tuple[str, ...], Callable[[], "np.ndarray"]], None]


def measure(
    plan: Plan, engine: Engine, volumes: Volumes, group: Group, keep: Callable[[Sample], None], look: Look | None = None
) -> float:
    """The measured window: every rank starts together, `num_iterations` calls each.

    keep: takes in each finished call, and look its output, from several threads. Returns when the window began, by
    `perf_counter`.
    """
    settings = plan.settings
    numbers = StreamNumbers(settings.streams)
    group.working("measuring")
    group.barrier()
    window = perf_counter()

    def done(index: int, sample: Sample, stream: int, labels: np.ndarray) -> None:
        sample.volumes, sample.cases = settings.batch_size, volumes.cases(index)
        sample.stream, sample.rank = stream, group.rank
        keep(sample)
        if look is not None:
            look(lambda: volumes.batch(index), sample.cases, labels.copy)

    def hand_on(index: int, sample: Sample, labels: np.ndarray) -> None:
        done(index, sample, 0, labels)

    def call(index: int) -> None:
        number = numbers.mine()
        sample, labels = timed_call(engine, lambda: engine.stage(volumes.batch(index), number), engine.labels, window)
        done(index, sample, number, labels)

    if settings.streams == 1:
        pipeline.run(engine, settings.num_iterations, volumes.batch, hand_on, window=window)
    else:
        spread(call, settings.num_iterations, settings.streams)
    return window


class StreamNumbers:
    """Gives each thread that asks a number of its own, from 0 to below `streams`."""

    def __init__(self, streams: int):
        self._numbers = iter(range(streams))
        self._lock = threading.Lock()
        self._own = threading.local()

    def mine(self) -> int:
        """The calling thread's number."""
        if not hasattr(self._own, "number"):
            with self._lock:
                self._own.number = next(self._numbers)
        return int(self._own.number)


def spread(call: Callable[[int], None], count: int, streams: int) -> None:
    """Make `count` calls, as many at a time as there are streams; the first error ends them all."""
    if streams == 1:
        for index in range(count):
            call(index)
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="stream") as pool:
        for future in [pool.submit(call, index) for index in range(count)]:
            future.result()
