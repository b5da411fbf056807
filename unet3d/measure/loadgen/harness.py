"""The system under test and the sample library that LoadGen calls: our engine and volumes behind its interface."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from unet3d.engines.base import Engine
from unet3d.measure import pipeline
from unet3d.measure.accuracy import fill_batch
from unet3d.measure.loop import StreamNumbers, spread
from unet3d.measure.pipeline import timed_call
from unet3d.results.timing import Sample

# Given the indices of a call's samples and the engine's output: what LoadGen logs of each sample.
Answer = Callable[[Sequence[int], Any], Sequence[np.ndarray]]
# Shown of a call when LoadGen's clock has stopped for it: the indices of its samples, and a function that makes its labels.
Look = Callable[[Sequence[int], Callable[[], np.ndarray]], None]
# Told of each call when LoadGen's clock has stopped for it, with our own times and the indices of its samples.
Done = Callable[[Sample, Sequence[int]], None]


class Harness:
    """Answers LoadGen's queries with an engine.

    With one volume a call volumes are staged while LoadGen loads samples, which it doesn't time; larger batches are put
    together from the volumes that a query draws, so their staging lies in LoadGen's time.
    """

    def __init__(
        self,
        engine: Engine,
        load: Callable[[int], np.ndarray],
        batch: int,
        streams: int,
        done: Done,
        answer: Answer | None = None,
        look: Look | None = None,
    ):
        self._engine, self._load, self._done, self._answer, self._look = engine, load, done, answer, look
        self._batch, self._streams = batch, streams
        self._held: dict[int, Any] = {}
        self._window: float | None = None
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def run(self, settings: Any, total: int, performance: int, folder: Path) -> None:
        """One test of LoadGen with its TestSettings and logs in `folder`; raises what went wrong in a query.

        total: number of samples; performance: how many of them may be held in memory.
        """
        import mlperf_loadgen as lg

        logs = lg.LogSettings()
        logs.log_output.outdir = str(folder)
        logs.enable_trace = False
        library = lg.ConstructQSL(total, performance, self._load_samples, self._unload_samples)
        system = lg.ConstructSUT(self._issue, lambda: None)
        try:
            lg.StartTestWithLogSettings(system, library, settings, logs, "")
        finally:
            lg.DestroySUT(system)
            lg.DestroyQSL(library)
        if self.error is not None:
            raise self.error

    def _load_samples(self, indices: Sequence[int]) -> None:
        def work() -> None:
            for index in indices:
                volume = self._load(index)
                self._held[index] = self._engine.stage(volume[None]) if self._batch == 1 else volume

        self._guarded(work)

    def _unload_samples(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._held.pop(index, None)

    def _issue(self, queries: Sequence[Any]) -> None:
        if self._window is None:
            self._window = perf_counter()
        # LoadGen's objects live no longer than this call; the pool's work ends within it.
        parts = [
            [(query.id, query.index) for query in queries[first : first + self._batch]]
            for first in range(0, len(queries), self._batch)
        ]
        if self._answer is None and self._streams == 1 and len(parts) > 1 and self._engine.depth > 1:
            self._guarded(lambda: self._overlap(parts))
            return
        # LoadGen calls once for each set of samples that fits into memory, and each time the streams' threads are new.
        self._numbers = StreamNumbers(self._streams)
        spread(lambda index: self._call(parts[index]), len(parts), self._streams)

    def _call(self, queries: Sequence[tuple[int, int]]) -> None:
        """One inference call. After an error the rest is answered empty, so that LoadGen comes to its end."""
        answered: list[bool] = []
        if self.error is None:
            self._guarded(lambda: self._infer(queries, answered))
        if not answered:
            self._complete(queries)

    def _overlap(self, parts: Sequence[Sequence[tuple[int, int]]]) -> None:
        """All calls of a query, answered as they end. After an error the rest is answered empty."""
        left = deque(parts)

        def stage(queries: Sequence[tuple[int, int]], slot: int) -> Any:
            return self._staged([index for _, index in queries], slot)

        def hand_on(number: int, sample: Sample, labels: np.ndarray) -> None:
            self._complete(left.popleft())
            indices = [index for _, index in parts[number]]
            sample.volumes = len(indices)
            if self._look is not None:
                self._look(indices, labels.copy)
            self._done(sample, indices)

        try:
            pipeline.run(self._engine, len(parts), parts.__getitem__, hand_on, stage=stage, window=self._window or 0.0)
        finally:
            for queries in left:
                self._complete(queries)

    @staticmethod
    def _complete(queries: Sequence[tuple[int, int]]) -> None:
        """Answer without content."""
        import mlperf_loadgen as lg

        lg.QuerySamplesComplete([lg.QuerySampleResponse(identity, 0, 0) for identity, _ in queries])

    def _infer(self, queries: Sequence[tuple[int, int]], answered: list[bool]) -> None:
        import mlperf_loadgen as lg

        indices = [index for _, index in queries]

        def respond(output: Any) -> None:
            if self._answer is None:
                self._complete(queries)
            else:
                # A response holds no more than an address: the arrays must live until LoadGen has copied them.
                arrays = self._answer(indices, output)
                lg.QuerySamplesComplete(
                    [
                        lg.QuerySampleResponse(identity, array.ctypes.data, array.nbytes)
                        for (identity, _), array in zip(queries, arrays, strict=True)
                    ]
                )
            answered.append(True)
            if self._look is not None:
                self._look(indices, lambda: self._engine.labels(output))

        sample, _ = timed_call(self._engine, lambda: self._staged(indices), respond, self._window or 0.0)
        # LoadGen's clock has stopped when it was answered: nothing of ours comes after the inference.
        sample.post, sample.volumes, sample.stream = 0.0, len(indices), self._numbers.mine()
        self._done(sample, indices)

    def _staged(self, indices: Sequence[int], slot: int | None = None) -> Any:
        if self._batch == 1:
            return self._held[indices[0]]
        return self._engine.stage(fill_batch([self._held[index] for index in indices], self._batch), slot)

    def _guarded(self, work: Callable[[], None]) -> None:
        """An error must not cross LoadGen's own frames: it is kept, and raised when the test is over."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            with self._lock:
                self.error = self.error or error
