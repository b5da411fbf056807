"""Faults around the process, in real processes: some of each class. All of them: python -m tests.robustness.harness."""

import random

import pytest

from tests.robustness.faults import FIXED, RANDOM, Place
from tests.robustness.harness import narrow_weights

# A start without PyTorch takes a fifth of a second, with it some seconds, a run a little more.
SOME = {"messages": 10, "surroundings": 5, "encodings": 4, "streams": 20}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return narrow_weights(tmp_path_factory.mktemp("weights"))


def some(whole):
    """A part of each class that is the same every time."""
    chosen = []
    for group in dict.fromkeys(fault.group for fault in FIXED):
        faults = [fault for fault in FIXED if fault.group == group and fault.whole is whole]
        limit = 1 if whole else SOME.get(group, 4)
        chosen += random.Random(0).sample(faults, min(limit, len(faults)))
    return chosen


@pytest.mark.parametrize("fault", [*some(False), *some(True)], ids=lambda fault: f"{fault.group}: {fault.name}")
def test_a_fixed_fault(fault, tmp_path, weights):
    assert fault.tried(Place(tmp_path, weights)) == []


@pytest.mark.parametrize("group", RANDOM)
def test_a_fault_at_a_random_moment(group, tmp_path, weights):
    assert RANDOM[group](Place(tmp_path, weights), random.Random(0)) == []
