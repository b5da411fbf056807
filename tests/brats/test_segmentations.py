"""Labels on disk are BraTS', in memory nnU-Net's, and saved files lie where the case's files lie."""

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unet3d.brats import sample_data, segmentations, workers
from unet3d.errors import UserError

PROPERTIES = {
    "original_size_of_raw_data": [4, 3, 2],
    "itk_origin": [0.0, -239.0, 5.0],
    "itk_spacing": [1.0, 1.0, 2.0],
    "itk_direction": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0],
}


def test_numbering():
    brats = np.array([0, 1, 2, 4])
    assert segmentations.from_brats(brats).tolist() == [0, 2, 1, 3]
    assert segmentations.to_brats(np.array([0, 1, 2, 3])).tolist() == [0, 2, 1, 4]
    assert segmentations.from_brats(brats.astype(np.float32)).dtype == np.uint8


@given(arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)))
def test_numbering_is_reversible(labels):
    assert np.array_equal(segmentations.from_brats(segmentations.to_brats(labels)), labels)


@pytest.mark.parametrize("value", [3, 5, -1, 0.5, np.nan])
def test_unexpected_labels(value):
    with pytest.raises(UserError, match=f"unexpected label {value:g}; allowed are 0, 1, 2, 4"):
        segmentations.from_brats(np.array([0.0, value, 4.0]))


def test_saved_file_has_the_cases_geometry(tmp_path):
    labels = np.arange(24).reshape(4, 3, 2) % 4
    path = tmp_path / "new" / "case.nii.gz"
    segmentations.save(path, labels, PROPERTIES)
    image = nibabel.load(path)
    assert image.shape == (2, 3, 4) and image.get_data_dtype() == np.uint8
    # ITK's world runs left-posterior-superior, NIfTI's right-anterior-superior: x and y change sign.
    assert np.array_equal(image.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 2, 5], [0, 0, 0, 1]])
    assert np.array_equal(np.asarray(image.dataobj).T, np.array([0, 2, 1, 4])[labels])
    assert np.array_equal(segmentations.read(path), labels)
    assert [file.name for file in path.parent.iterdir()] == ["case.nii.gz"]


def test_reads_sample_truth(tmp_path):
    sample_data.make(tmp_path, cases=1, size=(48, 48, 31), processes=workers.HERE)
    path = tmp_path / "HGG/Sample_001/Sample_001_seg.nii.gz"
    truth = np.asarray(nibabel.load(path).dataobj).T
    labels = segmentations.read(path)
    assert labels.shape == (31, 48, 48)
    for brats, nnunet in ((1, 2), (2, 1), (4, 3)):
        assert np.array_equal(labels == nnunet, truth == brats) and (labels == nnunet).any()


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match="missing"):
        segmentations.read(tmp_path / "none_seg.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match="seg is not a whole gzip file"):
        segmentations.read(tmp_path / "bad.nii.gz")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        segmentations.save(tmp_path / "file" / "case.nii.gz", np.zeros((4, 3, 2), np.uint8), PROPERTIES)
    with pytest.raises(ValueError, match="original space"):
        segmentations.save(tmp_path / "case.nii.gz", np.zeros((4, 3, 3), np.uint8), PROPERTIES)
