"""Volumes on their way through an engine: which steps run at the same time, told by the order of events and no clock."""

import queue
import random
import threading
import time

import numpy as np
import pytest

from unet3d.engines.base import Finished
from unet3d.measure import pipeline
from unet3d.results.timing import summarise

PATIENCE_S = 60  # only for what never happens


class Log:
    """Events in their order, which threads may wait for."""

    def __init__(self):
        self.events, self._changed = [], threading.Condition()

    def add(self, *event):
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, *event):
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, PATIENCE_S), f"{event} does not come"

    def numbers(self, step):
        with self._changed:
            return [event[1] for event in self.events if event[0] == step]


class Done(Finished):
    latency, post = 3.0, 0.5

    def __init__(self, labels, ended):
        self.labels, self.ended = labels, ended

    def seconds_since(self, earlier):
        return self.ended - earlier.ended


class MadeUp:
    """An engine for volumes that are their call's number. With a depth a thread stands for the device, whose clock ticks
    by a call's `pace`; before a call's end it asks `during` what has to happen meanwhile."""

    def __init__(self, log, depth=1, during=lambda number: None, fail=None, pace=3.5):
        self.log, self.depth, self.during, self.fail, self.pace = log, depth, during, fail, pace
        self.slots, self.memory = {}, {slot: np.zeros(4, np.uint8) for slot in range(depth)}
        self.calls, self.clock = queue.SimpleQueue(), 0.0
        if depth > 1:
            threading.Thread(target=self.device, daemon=True).start()

    def step(self, name, number):
        if self.fail == (name, number):
            raise ZeroDivisionError(f"{name} {number}")
        self.log.add(name, number)

    def stage(self, volumes, slot=None):
        self.step("stage", volumes)
        return volumes

    def infer(self, staged):
        self.step("infer", staged)
        self.during(staged)
        return staged

    def labels(self, output):
        self.step("labels", output)
        return np.full(4, output, np.uint8)

    def start(self, staged, slot):
        assert self.slots.get(slot) is None, "the slot is in use"
        self.step("start", staged)
        self.slots[slot] = threading.Event()
        self.calls.put((staged, slot))

    def device(self):
        while True:
            number, slot = self.calls.get()
            self.during(number)
            self.memory[slot][:] = number
            self.clock += self.pace
            self.slots[slot].ended, self.slots[slot].number = self.clock, number
            self.slots[slot].set()

    def finish(self, slot):
        call = self.slots[slot]
        assert call.wait(PATIENCE_S)
        self.step("finish", call.number)
        self.slots[slot] = None
        return Done(self.memory[slot], call.ended)


def run(engine, count, hand_on=None, read=None, **options):
    """Calls with numbers for volumes; returns what was handed on as (number, labels, sample)."""
    handed = []

    def note(index, sample, labels):
        engine.step("hand on", index)
        handed.append((index, labels.copy(), sample))

    def reading(index):
        engine.step("read", index)
        return index

    pipeline.run(engine, count, read or reading, hand_on or note, **options)
    return handed


def test_everything_runs_while_the_network_works_on_another_volume():
    """The device ends a call only when the next one has been started behind it and the one after that has been staged."""
    log, count = Log(), 12

    def during(number):
        if number + 2 < count:
            log.wait_for("start", number + 1)
            log.wait_for("stage", number + 2)

    handed = run(MadeUp(log, depth=4, during=during), count)
    assert [number for number, _, _ in handed] == list(range(count))


def test_handing_on_keeps_no_device_waiting():
    log, count = Log(), 8

    def hand_on(index, sample, labels):
        if index == 0:
            log.wait_for("finish", 3)

    run(MadeUp(log, depth=3), count, hand_on)
    assert log.numbers("finish") == list(range(count))


def test_where_the_host_computes_the_next_volume_is_read_during_a_call():
    log = Log()
    handed = run(MadeUp(log, during=lambda number: number < 4 and log.wait_for("read", number + 1)), 5)
    assert [number for number, _, _ in handed] == list(range(5))
    order = [event for event in log.events if event[0] != "read"]
    # Nothing else of the host's work is beside a call.
    assert order == [(step, number) for number in range(5) for step in ("stage", "infer", "labels", "hand on")]


def test_where_the_host_computes_handing_on_is_beside_the_next_call_if_asked_for():
    log = Log()
    during = MadeUp(log, during=lambda number: number and log.wait_for("hand on", number - 1))
    assert len(run(during, 5, beside=True)) == 5


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 60])
def test_volumes_come_out_in_order_each_once_with_their_own_labels(depth, beside, count):
    chance, threads = random.Random(count), threading.active_count()
    pause = lambda number: time.sleep(chance.random() / 500)  # noqa: E731
    engine = MadeUp(Log(), depth=depth, during=pause)
    before = threading.active_count() - threads
    handed = run(engine, count, beside=beside)
    assert [number for number, _, _ in handed] == list(range(count))
    assert all((labels == number).all() for number, labels, _ in handed)
    assert threading.active_count() <= threads + before


@pytest.mark.parametrize("depth", [2, 4])
def test_no_more_volumes_are_under_way_than_there_is_memory_for(depth):
    log = Log()
    engine = MadeUp(log, depth=depth)

    def read(index):
        engine.step("read", index)
        # The slot's last call was finished before.
        assert index < depth or index - depth in log.numbers("finish")
        return index

    def hand_on(index, sample, labels):
        time.sleep(0.002)
        assert len(log.numbers("finish")) <= index + pipeline.BACKLOG + 2

    run(engine, 40, hand_on, read)


@pytest.mark.parametrize("failing", [0, 1, 5, 9])
@pytest.mark.parametrize("step", ["read", "stage", "start", "finish", "hand on"])
def test_the_first_error_ends_an_overlapped_run_and_loses_nothing_before_it(step, failing):
    log = Log()
    threads = set(threading.enumerate())
    engine = MadeUp(log, depth=3, fail=(step, failing))
    with pytest.raises(ZeroDivisionError, match=f"{step} {failing}"):
        run(engine, 10)
    assert log.numbers("hand on") == list(range(failing))
    # All but the made-up device's own thread have ended.
    assert len(set(threading.enumerate()) - threads) <= 1


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("step", ["read", "stage", "infer", "labels", "hand on"])
def test_the_first_error_ends_calls_in_turn_and_loses_nothing_before_it(step, beside):
    log = Log()
    threads = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError, match=f"{step} 3"):
        run(MadeUp(log, fail=(step, 3)), 10, beside=beside)
    assert log.numbers("hand on") == [0, 1, 2]
    assert set(threading.enumerate()) == threads


def test_with_overhead_is_the_time_on_the_clock_and_latency_the_calls_own():
    """Calls of 3.5 s and their labels of 0.5 s, which end every 2 s of the device's clock."""
    samples = [sample for _, _, sample in run(MadeUp(Log(), depth=3, pace=2.0), 21)]
    assert {sample.latency for sample in samples} == {3.0} and {sample.post for sample in samples} == {0.5}
    stats = summarise(samples)
    assert stats.throughput == pytest.approx(1 / 3.0) and stats.mean == pytest.approx(3000)
    first, *others = [sample.stage + sample.latency + sample.post - sample.hidden for sample in samples]
    assert others == pytest.approx([2.0] * 20)
    assert stats.throughput_with_overhead == pytest.approx(21 / (40 + first))
    starts = [sample.start for sample in samples]
    assert np.diff(starts) == pytest.approx([2.0] * 20)


def test_a_device_that_waits_for_the_host_shows_it_as_staging():
    samples = [sample for _, _, sample in run(MadeUp(Log(), depth=3, pace=5.0), 6)]
    for sample in samples[1:]:
        assert sample.stage + sample.latency + sample.post - sample.hidden == pytest.approx(5.0)
        assert sample.stage >= 1.4 and sample.hidden == 0
