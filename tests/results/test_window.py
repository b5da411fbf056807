"""Throughput with several calls in flight, on made-up machines whose rate is known."""

import pytest
from making import stream_samples

from unet3d.results import advice
from unet3d.results.timing import Sample, steady, summarise


@pytest.mark.parametrize("queue", [False, True], ids=["own cores", "one device"])
@pytest.mark.parametrize(("calls", "streams"), [(4, 2), (5, 2), (7, 2), (11, 2), (10, 3), (11, 3), (30, 4), (31, 4)])
def test_throughput_is_the_machines_whatever_the_number_of_calls(calls, streams, queue):
    stats = summarise(stream_samples(calls, streams, queue=queue), streams)
    assert stats.throughput == pytest.approx(1 if queue else streams)
    assert stats.throughput_with_overhead == pytest.approx(1 if queue else streams)


@pytest.mark.parametrize("calls", [10, 11, 12, 13])
def test_host_work_that_keeps_a_device_waiting_is_overhead(calls):
    stats = summarise(stream_samples(calls, 3, host=4.0, queue=True), 3)
    assert stats.throughput == pytest.approx(1)
    # Three streams, each with a call of 1 s and 4 s of host work.
    assert stats.throughput_with_overhead == pytest.approx(3 / 5, rel=0.02)


def test_host_work_behind_which_others_compute_costs_no_more_than_itself():
    stats = summarise(stream_samples(21, 2, host=0.1, spread=0.03), 2)
    assert 2 / 1.1 * 0.98 < stats.throughput_with_overhead < 2 / 1.1 * 1.02
    assert stats.throughput_with_overhead <= stats.throughput <= 2.05


@pytest.mark.parametrize("seed", range(8))
def test_overhead_never_makes_it_faster(seed):
    stats = summarise(stream_samples(9, 2, host=0.001, spread=0.2, seed=seed), 2)
    assert stats.throughput_with_overhead <= stats.throughput


def test_a_call_that_reaches_over_the_windows_end_counts_by_its_share():
    samples = [
        Sample(0, 1, stream=0),
        Sample(0, 2, stream=1),
        Sample(1, 1, stream=0),
        Sample(2, 2, stream=0),
        Sample(2, 1, stream=1),
    ]
    # From 2 to 3: one call whole, half of another.
    assert summarise(samples, 2).throughput == pytest.approx(1.5)


def test_batches_count_their_volumes():
    samples = [Sample(sample.start, sample.latency, volumes=3, stream=sample.stream) for sample in stream_samples(9, 2)]
    assert summarise(samples, 2).throughput == pytest.approx(6)


def test_too_few_calls_for_the_streams_count_whole_and_are_warned_of():
    samples = [Sample(start=0.1, latency=1.0, stage=0.1), Sample(start=0.2, latency=1.3, stage=0.1, post=0.5, stream=1)]
    stats = summarise(samples, streams=2)
    assert stats.throughput == pytest.approx(2 / 1.4)
    assert stats.throughput_with_overhead == pytest.approx(2 / 2.0)
    assert not steady(samples, 2)
    assert "few-for-streams" in [warning.name for warning in advice.after(samples, 2, True)]
    enough = stream_samples(6, 2)
    assert "few-for-streams" not in [warning.name for warning in advice.after(enough, 2, True)]
