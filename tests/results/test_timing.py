"""Statistics on numbers that can be worked out by hand."""

import pytest

from unet3d.results.timing import Sample, WarmUp, percentile, summarise


def test_one_call_in_flight_counts_inference_only():
    samples = [Sample(start=0.5, latency=0.2, stage=0.1, post=0.1), Sample(start=5.0, latency=0.4, stage=0.1, post=0.1)]
    stats = summarise(samples)
    assert stats.throughput == pytest.approx(2 / 0.6)
    assert stats.mean == pytest.approx(300)
    assert stats.throughput_with_overhead == pytest.approx(2 / 1.0)
    assert stats.latency_with_overhead == pytest.approx(500)
    assert stats.stdev == pytest.approx(141.42, abs=0.01)


def test_a_batch_counts_its_volumes_and_keeps_the_calls_latency():
    stats = summarise([Sample(start=0, latency=1.0, volumes=4)])
    assert stats.throughput == pytest.approx(4)
    assert stats.mean == pytest.approx(1000)
    assert stats.stdev == 0


def test_percentiles_are_measured_values_by_nearest_rank():
    values = [15, 20, 35, 40, 50]
    assert [percentile(values, share) for share in (5, 30, 40, 50, 100)] == [15, 20, 20, 35, 50]
    assert percentile([7], 99) == 7


def test_warm_up_ends_when_two_calls_agree():
    warm_up = WarmUp()
    for latency, done in [(9.0, False), (2.0, False), (1.0, False), (1.01, True)]:
        warm_up.latencies.append(latency)
        assert warm_up.done is done
    assert warm_up.settled


def test_warm_up_gives_up_unsettled():
    warm_up = WarmUp(most=3, latencies=[3.0, 2.0, 1.0])
    assert warm_up.done
    assert not warm_up.settled


def test_fixed_warm_up():
    assert WarmUp(0).done
    assert not WarmUp(2, latencies=[1.0]).done
    assert WarmUp(2, latencies=[1.0, 9.0]).done
