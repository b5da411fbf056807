"""Streams on cores of their own."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from unet3d.devices import topology
from unet3d.engines.pytorch.pinning import Pinning

CORES = {core.cpu for core in topology.cores()}


def cores_of_streams(pinning, streams):
    barrier = Barrier(streams)

    def stream(_):
        pinning.pin()
        barrier.wait(timeout=30)
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(streams) as pool:
        return list(pool.map(stream, range(streams)))


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_each_stream_has_its_own_cores_and_the_measuring_thread_keeps_all():
    before = os.sched_getaffinity(0)
    pinning = Pinning(2)
    pinning.pin()
    first, second = cores_of_streams(pinning, 2)
    assert first and second and not first & second
    assert os.sched_getaffinity(0) == before


def test_one_stream_is_left_alone():
    assert cores_of_streams(Pinning(1), 1) == [os.sched_getaffinity(0)]


def test_more_streams_than_cores_share_them():
    shares = cores_of_streams(Pinning(2 * len(CORES)), 2 * len(CORES))
    assert set().union(*shares) == CORES and {len(share) for share in shares} == {1}
