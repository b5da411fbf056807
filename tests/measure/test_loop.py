"""One timed call, and many of them over several streams."""

import threading
import time

import pytest

from unet3d.measure.loop import StreamNumbers, spread, timed, timed_call


def test_timed_returns_result_and_its_own_time():
    result, seconds = timed(lambda value: value + 1, 1)
    assert result == 2
    assert seconds >= 0


class Slow:
    """Stands for an engine: each step notes that it ran, and takes its time."""

    def __init__(self):
        self.steps = []

    def step(self, name, seconds, result=None):
        self.steps.append(name)
        time.sleep(seconds)
        return result

    def infer(self, staged):
        return self.step("infer", 0.02, f"logits of {staged}")


def test_latency_is_the_inference_alone_and_the_hosts_work_stands_beside_it():
    engine, window = Slow(), time.perf_counter()
    sample, answer = timed_call(
        engine,
        lambda: engine.step("stage", 0.03, "staged"),
        lambda output: engine.step("answer", 0.04, output.upper()),
        window,
    )
    assert engine.steps == ["stage", "infer", "answer"] and answer == "LOGITS OF STAGED"
    assert sample.latency >= 0.02 and sample.stage >= 0.03 and sample.post >= 0.04
    assert sample.start >= sample.stage
    assert sample.start + sample.latency + sample.post <= time.perf_counter() - window


def test_streams_have_numbers_of_their_own_and_every_call_is_made_once():
    numbers, seen, lock, together = StreamNumbers(3), [], threading.Lock(), threading.Barrier(3, timeout=60)

    def call(index):
        if index < 3:
            together.wait()
        with lock:
            seen.append((index, threading.get_ident(), numbers.mine()))

    spread(call, 12, 3)
    assert sorted(index for index, _, _ in seen) == list(range(12))
    pairs = {(thread, number) for _, thread, number in seen}
    assert len(pairs) == len({thread for thread, _ in pairs}) == 3
    assert {number for _, number in pairs} == {0, 1, 2}


@pytest.mark.parametrize("streams", [1, 2])
def test_the_first_error_ends_the_calls(streams):
    def call(index):
        if index == 2:
            raise MemoryError("too much")

    with pytest.raises(MemoryError, match="too much"):
        spread(call, 5, streams)
