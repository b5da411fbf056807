"""Folds are scikit-learn's KFold over sorted names; the committed ones are those the network was trained with."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from unet3d import places
from unet3d.brats import folds
from unet3d.errors import UserError

# Of the fold 1 list that nnU-Net users have published, one name a line.
PUBLISHED_FOLD_1 = "938317677face0fcc2a2014182b5a71b25e9059596ca12cfbb5976883aca58d3"
ALL = sorted(name for fold in range(5) for name in folds.brats2019(fold))


def test_committed_names():
    assert len(ALL) == len(set(ALL)) == 335
    assert sum(name.startswith("HGG__BraTS19_") for name in ALL) == 259
    assert sum(name.startswith("LGG__BraTS19_") for name in ALL) == 76
    assert [len(folds.brats2019(fold)) for fold in range(5)] == [67] * 5


def test_fold_1_is_the_published_one():
    assert hashlib.sha256((places.FOLDS / "fold1_validation.txt").read_bytes()).hexdigest() == PUBLISHED_FOLD_1


def test_committed_folds_are_those_of_scikit_learn(tmp_path):
    for fold, (_, held_out) in enumerate(KFold(5, shuffle=True, random_state=12345).split(ALL)):
        assert folds.brats2019(fold) == np.array(ALL)[held_out].tolist()
    folds.write(reversed(ALL), tmp_path)
    for fold in range(5):
        name = f"fold{fold}_validation.txt"
        assert (tmp_path / name).read_bytes() == (places.FOLDS / name).read_bytes()


def test_whole_and_part_of_brats_2019():
    assert folds.fold_names(ALL, 1) == folds.brats2019(1)
    # A case must not change sides because others are absent: the network was trained with those of other folds.
    part = ALL[::3]
    assert folds.fold_names(part, 2) == [name for name in folds.brats2019(2) if name in part]
    with pytest.raises(UserError, match="none of the 67 cases of fold 1"):
        folds.fold_names(folds.brats2019(0), 1)


@given(st.sets(st.text("ABC123_", min_size=1), min_size=5, max_size=40))
def test_other_names_are_each_held_out_once(names):
    held_out = [folds.fold_names(names, fold) for fold in range(5)]
    assert sorted(name for fold in held_out for name in fold) == sorted(names)
    assert max(map(len, held_out)) - min(map(len, held_out)) <= 1
    assert all(fold == sorted(fold) for fold in held_out)


def test_refusals():
    with pytest.raises(UserError, match="FOLD is 5; allowed is 0 to 4"):
        folds.fold_names(ALL, 5)
    with pytest.raises(UserError, match="4 cases; at least 5"):
        folds.fold_names("abcd", 1)
