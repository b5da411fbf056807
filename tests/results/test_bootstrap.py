"""The bootstrap of rounds against SciPy's; that of sides is tested with `compare`, which uses it."""

import numpy as np
import pytest
from scipy import stats

from unet3d.results.bootstrap import CONFIDENCE, interval, ratio_of_rounds


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
