"""Dice per region: by hand, and equal to nnU-Net's own evaluation of NIfTI files."""

import csv

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unet3d.brats import regions


def labels(*values):
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_by_hand():
    scores = regions.score(labels(0, 1, 2, 3, 3, 0), labels(1, 1, 2, 2, 3, 0))
    # WT: 4 and 5 voxels, 4 shared. TC: 3 and 3, 3 shared. ET: 2 and 1, 1 shared.
    assert scores == {"WT": 8 / 9, "TC": 1.0, "ET": 2 / 3}


def test_empty_regions_by_hand():
    assert regions.score(labels(0, 0), labels(0, 0)) == {"WT": None, "TC": None, "ET": None}
    assert regions.score(labels(3, 0), labels(1, 0)) == {"WT": 1.0, "TC": 0.0, "ET": 0.0}
    assert regions.score(labels(1, 0), labels(0, 1)) == {"WT": 0.0, "TC": None, "ET": None}


def test_summary_by_hand():
    summary = regions.summarise([
        {"WT": 0.5, "TC": 1.0, "ET": None},
        {"WT": 1.0, "TC": None, "ET": None},
        {"WT": 0.9, "TC": 0.5, "ET": 0.6},
    ])  # fmt: skip
    assert summary.means == pytest.approx({"WT": 0.8, "TC": 0.75, "ET": 0.6})
    assert summary.total == pytest.approx((0.8 + 0.75 + 0.6) / 3)
    assert summary.undefined == {"WT": 0, "TC": 1, "ET": 2}
    assert summary.cases == 3


def test_a_region_that_is_nowhere_leaves_no_total():
    summary = regions.summarise([{"WT": 0.5, "TC": 1.0, "ET": None}])
    assert summary.means == {"WT": 0.5, "TC": 1.0, "ET": None} and summary.total is None
    assert regions.summarise([]).means == {"WT": None, "TC": None, "ET": None}


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        regions.score(labels(0, 1), labels(0, 1, 2))


def test_equals_nnunet_on_files(tmp_path):
    from nnunet.evaluation.region_based_evaluation import evaluate_case, evaluate_regions, get_brats_regions

    rng = np.random.default_rng(3)
    # What each case holds: with everything, without enhancing tumour, edema only, nothing at all on either side.
    held = {"all": ([0, 1, 2, 3], [0, 1, 2, 3]), "no_et": ([0, 1, 2], [0, 1, 2]), "false_et": ([0, 1, 2, 3], [0, 1, 2]),
            "edema": ([0, 1], [0, 1]), "missed": ([0], [0, 1, 2, 3]), "empty": ([0], [0])}  # fmt: skip
    scores = {}
    for name, content in held.items():
        maps = [rng.choice(values, (7, 8, 9)).astype(np.uint8) for values in content]
        for side, array in zip(("predicted", "truth"), maps, strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / side / f"{name}.nii.gz"))
        scores[name] = regions.score(*maps)
        paths = [str(tmp_path / side / f"{name}.nii.gz") for side in ("predicted", "truth")]
        expected = evaluate_case(*paths, get_brats_regions().values())
        assert [np.nan if d is None else d for d in scores[name].values()] == pytest.approx(expected, nan_ok=True)

    evaluate_regions(str(tmp_path / "predicted"), str(tmp_path / "truth"), get_brats_regions(), processes=1)
    rows = {row[0]: row[1:] for row in csv.reader((tmp_path / "predicted" / "summary.csv").open())}
    summary = regions.summarise(list(scores.values()))
    assert [f"{summary.means[region]:.4f}" for region in ("WT", "TC", "ET")] == rows["mean"]
    assert summary.undefined == {
        region: sum(rows[name][column] == "nan" for name in held) for column, region in enumerate(regions.REGIONS)
    }


label_maps = array_shapes(min_dims=3, max_dims=3, max_side=4).flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2)
)


@given(label_maps)
def test_equals_medpy_on_any_labels(maps):
    from medpy.metric import dc

    for region, dice in regions.score(*maps).items():
        masks = [np.isin(m, regions.REGIONS[region]) for m in maps]
        if dice is None:
            assert not masks[0].any() and not masks[1].any()
        else:
            assert dice == pytest.approx(dc(*masks))
    assert regions.score(*maps) == regions.score(*maps[::-1])
