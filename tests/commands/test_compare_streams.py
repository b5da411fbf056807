"""compare on runs with several calls in flight, and on very long runs."""

import tracemalloc

import numpy as np
import pytest
from comparing import document_of
from making import stream_samples

from unet3d import cli
from unet3d.commands.compare import measure, runs
from unet3d.results import bootstrap


def side(name, *shape, **traits):
    streams = shape[1]
    return runs.Side(name, [document_of(stream_samples(*shape, **traits), streams)])


@pytest.mark.parametrize("queue", [False, True], ids=["own cores", "one device"])
@pytest.mark.parametrize(("calls", "streams"), [(10, 2), (21, 2), (31, 3)])
def test_interval_of_streams_is_of_use(calls, streams, queue):
    base, other = (
        side(name, calls, streams, spread=0.02, queue=queue, seed=seed, pace=pace)
        for name, seed, pace in (("a", 0, 1.0), ("b", 1, 1.25))
    )
    ratios = measure.ratios(base, other)
    for metric in ("throughput", "throughput_with_overhead"):
        assert ratios[metric].low < 0.8 < ratios[metric].high
        assert ratios[metric].beyond_noise
        assert ratios[metric].high / ratios[metric].low < 1.3
    # A queue's first calls wait less, so latencies spread more there.
    assert ratios["mean"].low < 1.25 < ratios["mean"].high
    assert ratios["mean"].beyond_noise or queue


@pytest.mark.parametrize(("calls", "streams", "queue"), [(11, 2, False), (20, 3, True), (20, 3, False)])
def test_streams_of_equal_speed_are_rarely_called_different(calls, streams, queue, monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 400)
    alarms, trials = 0, 100
    for seed in range(trials):
        base, other = (
            side(name, calls, streams, spread=0.05, host=0.2, queue=queue, seed=2 * seed + number)
            for number, name in enumerate("ab")
        )
        alarms += measure.ratios(base, other)["throughput"].beyond_noise
    assert alarms / trials <= 0.05


@pytest.mark.parametrize(("pace", "code"), [(1.0, 0), (1.2, 1)])
def test_the_gate_can_fail_on_streams(save, pace, code, capsys):
    base = save("base", document_of(stream_samples(21, 2, spread=0.02, host=0.1), 2))
    other = save("other", document_of(stream_samples(21, 2, spread=0.02, host=0.1, seed=1, pace=pace), 2))
    assert cli.main(["compare", base, other, "--fail-if-slower", "5%"]) == code
    assert "too noisy" not in capsys.readouterr().out


def test_the_gate_says_how_many_calls_streams_need(save, capsys):
    paths = [save(name, document_of(stream_samples(9, 3), 3)) for name in "ab"]
    assert cli.main(["compare", *paths, "--fail-if-slower", "5%"]) == 2
    assert "NUM_ITERATIONS to 15 or more" in capsys.readouterr().err


def test_old_results_of_streams_are_counted_by_todays_rule(save):
    doc = document_of(stream_samples(7, 2), 2)
    doc["schema_version"] = 1
    doc["statistics"]["throughput"] = 7 / 4
    assert runs.read(save("old", doc)).value("throughput") == pytest.approx(2)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_million_calls_need_less_than_200_megabytes(streams, monkeypatch):
    """Memory does not depend on the number of draws; few of them are quick."""
    monkeypatch.setattr(bootstrap, "DRAWS", 150)
    rng, count = np.random.default_rng(0), 1_000_000

    def million(name):
        latency_ms = rng.lognormal(2, 0.1, count)
        lanes = np.arange(count) % streams
        start = np.empty(count)
        for lane in range(streams):
            own = latency_ms[lanes == lane] / 1e3
            start[lanes == lane] = np.concatenate([[0.0], np.cumsum(own)[:-1]])
        doc = document_of(stream_samples(6, streams), streams)
        zeros = np.zeros(count)
        doc["samples"] = {
            "start_s": start,
            "latency_ms": latency_ms,
            "stage_ms": zeros,
            "post_ms": zeros,
            "volumes": np.ones(count),
            "rank": zeros,
            "stream": lanes.astype(float),
        }
        return runs.Side(name, [doc])

    base, other = million("a"), million("b")
    tracemalloc.start()
    try:
        ratios = measure.ratios(base, other)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6
    assert ratios["throughput"].low < 1 < ratios["throughput"].high
    assert ratios["throughput"].high / ratios["throughput"].low < 1.01
