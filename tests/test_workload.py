"""The workload's facts hang together, and whoever needs one reads it there."""

import re
from pathlib import Path

import numpy as np
import pytest

from unet3d import workload
from unet3d.brats import segmentations
from unet3d.engines.base import Request
from unet3d.network.plans import architecture, random_plans

PACKAGE = Path(__file__).parents[1] / "unet3d"


def test_labels_are_renumbered_there_and_back():
    brats = np.array(sorted(workload.BRATS_TO_NNUNET), np.uint8)
    labels = segmentations.from_brats(brats)
    assert sorted(labels.tolist()) == list(workload.CLASSES) == [0, 1, 2, 3]
    assert segmentations.to_brats(labels).tolist() == brats.tolist()
    # BraTS' enhancing tumour is its label 4, its edema 2.
    assert workload.REGIONS["ET"] == (workload.BRATS_TO_NNUNET[4],)
    assert set(workload.REGIONS["WT"]) - set(workload.REGIONS["TC"]) == {workload.BRATS_TO_NNUNET[2]}


def test_the_network_of_the_plans_is_the_workloads():
    shape = architecture(random_plans())
    assert (shape.input_channels, shape.classes) == (len(workload.MODALITIES), len(workload.CLASSES))
    assert all(extent % 2 ** len(shape.pool_kernels) == 0 for extent in workload.SHAPE)
    assert [title.casefold() for title in workload.MODALITY_TITLES] == list(workload.MODALITIES)
    assert Request("torch", None, "fp32").shape == workload.input_shape() == (1, 4, *workload.SHAPE)


@pytest.mark.parametrize("fact", [r"\(224, 224, 160\)", r"\{0: 0, 1: 2", r'"t1", "t1ce"', r'"ET": \(3,\)'])
def test_a_fact_stands_in_no_other_module(fact):
    holders = [path for path in PACKAGE.rglob("*.py") if re.search(fact, path.read_text(encoding="utf-8"))]
    assert holders == [PACKAGE / "workload.py"]
