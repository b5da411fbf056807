"""The bootstrap of rounds against SciPy's, that of sides against a full one; what `compare` makes of it is tested there."""

import numpy as np
import pytest
from scipy import stats

from unet3d.results import bootstrap
from unet3d.results.bootstrap import (
    CONFIDENCE,
    DrawnPercentiles,
    Units,
    block_length,
    draw,
    interval,
    ratio_of_rounds,
    sums,
)
from unet3d.results.timing import percentiles


def test_ratio_is_the_geometric_mean_of_the_rounds():
    sure = ratio_of_rounds([[1.0, 3.0], [4.0]], [[4.0], [2.0, 2.0]])
    assert sure.value == pytest.approx(stats.gmean([4 / 2, 2 / 4]))


def test_interval_over_rounds_is_scipys_bootstrap_of_pairs():
    generator = np.random.default_rng(5)
    first = generator.lognormal(0, 0.1, 12)
    second = first * generator.lognormal(0.4, 0.2, 12)
    sure = ratio_of_rounds([[value] for value in first], [[value] for value in second], draws=40_000)
    expected = stats.bootstrap(
        (np.log(second / first),), np.mean, method="percentile", confidence_level=CONFIDENCE, n_resamples=40_000, rng=1
    )
    assert np.log([sure.low, sure.high]) == pytest.approx(expected.confidence_interval, abs=0.005)


def test_one_round_varies_by_its_calls_alone():
    assert ratio_of_rounds([[2.0, 2.0]], [[3.0]]) == ratio_of_rounds([[2.0]], [[3.0]])
    generator = np.random.default_rng(1)
    calls = generator.lognormal(1, 0.2, 20)
    sure = ratio_of_rounds([[2.0]], [list(calls)], draws=40_000)
    expected = stats.bootstrap(
        (calls,), np.mean, method="percentile", confidence_level=CONFIDENCE, n_resamples=40_000, rng=1
    ).confidence_interval
    assert (2 * sure.low, 2 * sure.high) == pytest.approx(tuple(expected), rel=0.005)


def test_rounds_must_pair():
    with pytest.raises(ValueError, match="same number of rounds"):
        ratio_of_rounds([[1.0]], [[1.0], [2.0]])


def test_interval_holds_the_middle_of_the_draws():
    low, high = interval(np.arange(100_001.0))
    assert (high - low) / 100_000 == pytest.approx(CONFIDENCE)
    assert low == pytest.approx(100_000 - high)


def drawn_samples(series, lengths, draws, rng):
    """The full circular block bootstrap, every drawn sample held: [draws, samples of all series]."""
    drawn = []
    for samples, length in zip(series, lengths, strict=True):
        n = len(samples)
        starts = rng.integers(0, n, (draws, -(-n // length)))
        drawn.append(samples[((starts[:, :, None] + np.arange(length)) % n).reshape(draws, -1)[:, :n]])
    return np.concatenate(drawn, axis=1)


def reduced(series, lengths, draws, rng):
    """Mean and 90th percentile of each draw by counts of units."""
    units = [Units.of(len(samples), length) for samples, length in zip(series, lengths, strict=True)]
    added = np.concatenate([sums(each, samples) for each, samples in zip(units, series, strict=True)])
    number = np.concatenate([sums(each, np.ones(each.samples)) for each in units])
    percentiles_of, means, p90 = DrawnPercentiles(units, series), [], []
    for chunk in draw(units, rng, draws):
        counts = np.concatenate(chunk, axis=1)
        means.append(counts @ added / (counts @ number))
        p90.append(percentiles_of.of(counts, 90))
    return np.concatenate(means), np.concatenate(p90)


@pytest.mark.parametrize("sizes", [(5,), (23,), (40, 37), (301, 120)])
def test_counts_give_the_figures_of_the_full_bootstrap_draw_by_draw(sizes):
    """The same random numbers: not alike but equal."""
    generator = np.random.default_rng(4)
    series = [generator.lognormal(0, 0.3, size) for size in sizes]
    lengths = [block_length(samples, 2) for samples in series]
    means, p90 = reduced(series, lengths, 500, np.random.default_rng(9))
    full = drawn_samples(series, lengths, 500, np.random.default_rng(9))
    assert means == pytest.approx(full.mean(axis=1))
    assert p90 == pytest.approx(percentiles(full, 90))


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_units_of_a_long_series_spread_as_the_full_bootstrap_does(correlation, monkeypatch):
    generator = np.random.default_rng(2)
    samples = np.zeros(3000)
    for i, step in enumerate(generator.standard_normal(3000)):
        samples[i] = correlation * samples[i - 1] + step
    samples = np.exp(0.1 * samples)
    length = block_length(samples)
    full = drawn_samples([samples], [length], 1500, generator)
    monkeypatch.setattr(bootstrap, "MOST_UNITS", 400)
    assert Units.of(3000, length).size == 8
    means, p90 = reduced([samples], [length], 1500, generator)
    assert means.std() == pytest.approx(full.mean(axis=1).std(), rel=0.1)
    assert p90.std() == pytest.approx(percentiles(full, 90).std(), rel=0.12)
    assert means.mean() == pytest.approx(samples.mean(), rel=0.002)


def test_blocks_hold_concurrent_calls_together():
    steady = np.tile([1.0, 2.0, 3.0, 2.0], 25)
    assert block_length(steady, 6) >= 6
    assert block_length(np.ones(4), 6) == 4
