"""Faults around the process, in real processes: some of each class. All of them: python -m tests.robustness.harness."""

import random

import pytest

from tests.robustness.faults import FIXED, RANDOM, Place
from tests.robustness.harness import narrow_weights

# A start without PyTorch takes a fifth of a second, with it some seconds, a run a little more.
SOME = {"messages": 10, "surroundings": 8, "encodings": 4, "cache": 1, "folders": 2, "streams": 30}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return narrow_weights(tmp_path_factory.mktemp("weights"))


def some(whole):
    """A part of each class that is the same every time."""
    chosen = []
    for group in dict.fromkeys(fault.group for fault in FIXED):
        faults = [fault for fault in FIXED if fault.group == group and fault.whole is whole]
        limit = SOME.get(group, 4) if not whole else min(SOME.get(group, 2), 2)
        chosen += random.Random(0).sample(faults, min(limit, len(faults)))
    return chosen


@pytest.mark.parametrize("fault", [*some(False), *some(True)], ids=lambda fault: f"{fault.group}: {fault.name}")
def test_a_fixed_fault(fault, tmp_path, weights):
    assert fault.tried(Place(tmp_path, weights)) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("group", RANDOM)
def test_faults_at_random_moments(group, seed, tmp_path, weights):
    assert RANDOM[group](Place(tmp_path, weights), random.Random(seed)) == []
