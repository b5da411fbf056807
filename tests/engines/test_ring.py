"""Calls that overlap on a device: the order of its queues on a stand-in, and the same labels as one call after the other."""

import numpy as np
import pytest
import torch
from made_queues import Queues

from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.engines.ring import DEPTH, Ring
from unet3d.measure import pipeline

SHAPE = (1, 4, 64, 32, 32)


def test_each_step_of_a_call_waits_for_the_one_before_on_another_queue():
    device = Queues()
    ring = Ring(device)
    bring, take, compute = 1, 2, 0
    staged = ring.memory(SHAPE, torch.float32, 0)
    staged.copy_(torch.randn(SHAPE))

    def network(volumes):
        device.note("network")
        assert volumes is not staged and torch.equal(volumes, staged)
        return volumes

    ring.start(0, staged, network)
    queues = [(queue, what) for queue, what, _ in device.log]
    assert queues == [
        (bring, "record"),
        (bring, "record"),
        (compute, "wait"),
        (compute, "record"),
        (compute, "network"),
        (compute, "record"),
        (compute, "record"),
        (take, "wait"),
        (take, "record"),
    ]
    events = [event for _, _, event in device.log]
    # The network waits for the volumes' arrival, the transfer of labels for the labels.
    assert events[2] is events[1] and events[7] is events[6]
    done = ring.finish(0)
    assert device.log[-1][1:] == ("synchronize", events[8])
    assert np.array_equal(done.labels, staged.numpy().argmax(axis=1))
    # One tick for the transfer, one for the network.
    assert done.latency == 2.0 and done.post == 2.0


def test_volumes_that_are_on_the_device_are_not_sent_again():
    device = Queues()
    ring = Ring(device)
    there = ring.upload(0, ring.memory(SHAPE, torch.float32, 0).normal_())
    assert [what for _, what, _ in device.log] == ["record", "synchronize"]
    ring.start(0, there, lambda volumes: volumes, on_device=True)
    assert ring.finish(0).latency == 1.0


def test_a_slots_memory_is_used_again_and_that_without_a_slot_is_not():
    ring = Ring(Queues())
    first = ring.memory(SHAPE, torch.float16, 1)
    assert ring.memory(SHAPE, torch.float16, 1) is first
    assert ring.memory(SHAPE, torch.float16, 2) is not first
    assert ring.memory(SHAPE, torch.float16) is not ring.memory(SHAPE, torch.float16)
    assert ring.memory((2, *SHAPE[1:]), torch.float16, 1).shape[0] == 2
    ring.clear()
    assert ring.memory(SHAPE, torch.float16, 1) is not first


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_device_changes_the_layout_and_a_host_that_computes_does_it_by_itself(channels_last):
    given = volumes(1)[0]
    sent = Ring(Queues(), channels_last=channels_last).stage(given, torch.float16, 0, on_device=False)
    there = Ring(Queues(), channels_last=channels_last).stage(given, torch.float16, 0, on_device=True)
    without_slot = Ring(Queues(), channels_last=channels_last).stage(given, torch.float16, None, on_device=True)
    on_host = Ring(CpuDevice(), channels_last=channels_last).stage(given, torch.float16, 0, on_device=False)
    for staged, innermost in ((sent, False), (there, channels_last), (without_slot, channels_last), (on_host, channels_last)):
        order = torch.channels_last_3d if innermost else torch.contiguous_format
        assert staged.is_contiguous(memory_format=order)
        assert torch.equal(staged, torch.from_numpy(given).half())


def volumes(count):
    generator = np.random.default_rng(3)
    return [generator.standard_normal(SHAPE, dtype=np.float32) for _ in range(count)]


def engine_for(reference, device, **changes):
    request = Request(engine="torch", device=device, **{"precision": "fp32", "network": "reference", "shape": SHAPE, **changes})
    engine = TorchEngine(request)
    engine.load(reference)
    engine.compile(engine.stage(volumes(1)[0]))
    return engine


def labels_through(engine, given):
    found = []
    pipeline.run(engine, len(given), given.__getitem__, lambda index, sample, labels: found.append(labels.copy()))
    return found


@pytest.mark.parametrize("input_on_device", [False, True])
def test_overlapped_calls_give_the_labels_of_calls_in_turn(narrow_reference, input_on_device):
    given = volumes(DEPTH + 2)
    overlapped = engine_for(narrow_reference, Queues(), input_on_device=input_on_device)
    assert overlapped.depth == DEPTH
    in_turn = engine_for(narrow_reference, CpuDevice())
    assert in_turn.depth == 1
    found, expected = labels_through(overlapped, given), labels_through(in_turn, given)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_volumes_that_are_staged_at_a_time_share_the_threads(narrow_reference, monkeypatch):
    engine = engine_for(narrow_reference, Queues(), threads=3 * (DEPTH - 1))
    memory, seen = engine._ring.memory, []
    monkeypatch.setattr(engine._ring, "memory", lambda *given: seen.append(torch.get_num_threads()) or memory(*given))
    labels_through(engine, volumes(DEPTH))
    assert set(seen) == {3}
    engine.stage(volumes(1)[0])
    assert seen[-1] == 3 * (DEPTH - 1)


def test_streams_are_calls_in_flight_by_themselves(narrow_reference):
    request = Request(engine="torch", device=CpuDevice(), precision="fp32", network="reference", shape=SHAPE, streams=2)
    engine = TorchEngine(request)
    engine.load(narrow_reference)
    assert engine.depth == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("input_on_device", [False, True])
@pytest.mark.parametrize("jit", ["none", "trace"])
def test_on_a_gpu_overlapped_calls_give_the_labels_of_calls_in_turn(narrow_reference, jit, input_on_device):
    from unet3d.devices.cuda import CudaDevice

    given = volumes(5 * DEPTH)
    engine = engine_for(
        narrow_reference, CudaDevice(0), precision="fp16", network="fast", jit=jit, input_on_device=input_on_device
    )
    assert engine.depth == DEPTH
    expected = [engine.labels(engine.infer(engine.stage(volume))).copy() for volume in given]
    samples, found = [], []
    pipeline.run(
        engine,
        len(given),
        given.__getitem__,
        lambda index, sample, labels: (samples.append(sample), found.append(labels.copy())),
    )
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(sample.latency > 0 and sample.post > 0 for sample in samples)
    assert [sample.start for sample in samples] == sorted(sample.start for sample in samples)
