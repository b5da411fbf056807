"""Finding cases in a folder laid out as BraTS 2019 is."""

import pytest

from unet3d.brats.dataset import find_cases
from unet3d.errors import UserError


def test_cases_are_sorted_and_named_by_grade(tmp_path):
    for folder in ("LGG/BraTS19_0_1", "HGG/BraTS19_B", "HGG/BraTS19_A", "HGG/.partial", "build/preprocessed_data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "HGG/notes.txt").touch()
    cases = find_cases(tmp_path)
    assert [case.name for case in cases] == ["HGG__BraTS19_A", "HGG__BraTS19_B", "LGG__BraTS19_0_1"]
    assert [case.grade for case in cases] == ["HGG", "HGG", "LGG"]
    folder = tmp_path / "LGG" / "BraTS19_0_1"
    assert cases[2].folder == folder
    assert cases[2].images == [folder / f"BraTS19_0_1_{m}.nii.gz" for m in ("t1", "t1ce", "t2", "flair")]
    assert cases[2].truth == folder / "BraTS19_0_1_seg.nii.gz"


def test_a_folder_above_the_data_set_is_recognised(tmp_path):
    (tmp_path / "MICCAI_BraTS_2019_Data_Training" / "HGG" / "BraTS19_A").mkdir(parents=True)
    with pytest.raises(UserError, match=r"did you mean .*MICCAI_BraTS_2019_Data_Training"):
        find_cases(tmp_path)


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="not a folder; expected"):
        find_cases(tmp_path / "none")
    with pytest.raises(UserError, match="no cases; expected"):
        find_cases(tmp_path)
