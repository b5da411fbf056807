"""Preprocessing and its way back are nnU-Net's: compared with nnU-Net's trainer on whole sample volumes."""

import contextlib
import io
import pickle

import nibabel
import numpy as np
import pytest

from unet3d.brats import preprocessing, sample_data, segmentations
from unet3d.brats.dataset import find_cases
from unet3d.brats.preprocessing.case import prepare
from unet3d.brats.weights import random_plans


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    sample_data.make(folder, cases=1, processes=1)
    return find_cases(folder)[0]


def nnunet_preprocessing(case):
    """The path of nnU-Net's inference: the trainer's preprocess_patient with this model's plans."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunet.training.network_training.nnUNetTrainerV2 import nnUNetTrainerV2

        trainer = nnUNetTrainerV2("plans.pkl", fold=None)
        trainer.process_plans(random_plans())
        return trainer.preprocess_patient([str(file) for file in case.images])


def resampled_case(folder, spacing):
    """A small sample case whose files claim another spacing (mm along x, y, z)."""
    sample_data.make(folder, cases=1, size=(48, 48, 31), processes=1)
    for file in folder.rglob("*.nii.gz"):
        image = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([-spacing[0], -spacing[1], spacing[2], 1])),
                     file)  # fmt: skip
    return find_cases(folder)[0]


def check_volume(case, store_dir):
    """Runs the public path and compares every voxel with nnU-Net's. Returns the volume and nnU-Net's properties."""
    from batchgenerators.augmentations.utils import pad_nd_image

    report = preprocessing.preprocess(case.folder.parents[1], store_dir, processes=1)
    assert report.done == [case.name] and not report.failed
    volume = preprocessing.Store(store_dir).load(case.name)
    expected, _, properties = nnunet_preprocessing(case)
    padded = pad_nd_image(expected, preprocessing.PADDED_SHAPE, "constant", None, False, None)
    assert volume.array.dtype == np.float32 and volume.array.shape == (4, 224, 224, 160)
    assert np.array_equal(volume.array, padded)
    return volume, properties


def check_way_back(volume, properties, labels, folder):
    """Padded labels through `restore` and `save` give the file that nnU-Net writes for them."""
    from nnunet.inference.segmentation_export import save_segmentation_nifti_from_softmax

    inner = properties["size_after_resampling"]
    low = [(p - n) // 2 for p, n in zip(labels.shape, inner, strict=True)]
    cropped = labels[tuple(slice(a, a + n) for a, n in zip(low, inner, strict=True))]
    scores = (cropped == np.arange(4).reshape(4, 1, 1, 1)).astype(np.float32)
    with contextlib.redirect_stdout(io.StringIO()):
        save_segmentation_nifti_from_softmax(scores, str(folder / "nnunet.nii.gz"), properties, order=1)
    restored = preprocessing.restore(labels, volume.properties)
    segmentations.save(folder / "ours.nii.gz", restored, volume.properties)
    theirs, ours = (nibabel.load(folder / f"{name}.nii.gz") for name in ("nnunet", "ours"))
    assert np.array_equal(theirs.affine, ours.affine)
    assert restored.dtype == np.uint8
    assert np.array_equal(np.asarray(ours.dataobj).T, segmentations.to_brats(restored))
    return np.asarray(theirs.dataobj).T, restored


def test_whole_volume_is_identical_to_nnunets(full_size, tmp_path):
    volume, properties = check_volume(full_size, tmp_path / "store")
    labels = np.random.default_rng(0).integers(0, 4, preprocessing.PADDED_SHAPE, dtype=np.uint8)
    theirs, ours = check_way_back(volume, properties, labels, tmp_path)
    assert ours.shape == (155, 240, 240)
    assert np.array_equal(theirs, ours)

    # MLPerf's preprocessing pickles the same volume with nnU-Net's properties.
    mlperf = tmp_path / "mlperf"
    mlperf.mkdir()
    (mlperf / "preprocessed_files.pkl").write_bytes(pickle.dumps([full_size.name]))
    (mlperf / f"{full_size.name}.pkl").write_bytes(pickle.dumps([volume.array, properties]))
    read = preprocessing.Store(mlperf).load(full_size.name)
    assert np.array_equal(read.array, volume.array) and read.properties == volume.properties


def test_truth_survives_crop_pad_and_restore(full_size):
    volume = prepare(full_size)
    truth = segmentations.read(full_size.truth)
    box = tuple(slice(low, high) for low, high in volume.properties["crop_bbox"])
    padded = preprocessing.pad(truth[box][None])[0]
    assert padded.shape == preprocessing.PADDED_SHAPE
    assert np.array_equal(preprocessing.restore(padded, volume.properties), truth)


@pytest.mark.parametrize("spacing", [(1.2, 1.0, 0.9), (1.0, 1.0, 4.0)], ids=["oblong", "thick_slices"])
def test_other_spacings_are_resampled_as_nnunet_does(spacing, tmp_path):
    case = resampled_case(tmp_path / "data", spacing)
    volume, properties = check_volume(case, tmp_path / "store")
    assert volume.properties["size_after_resampling"] != volume.properties["size_after_cropping"]
    # A ball: random voxels would vanish in resampling.
    offsets = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in preprocessing.PADDED_SHAPE), indexing="ij"))
    distance = np.linalg.norm(offsets, axis=0)
    labels = np.select([distance < 4, distance < 7, distance < 10], [3, 2, 1], 0).astype(np.uint8)
    theirs, ours = check_way_back(volume, properties, labels, tmp_path)
    assert ours.shape == (31, 48, 48) and set(np.unique(ours)) == {0, 1, 2, 3}
    # nnU-Net resamples class scores, here labels: borders may differ by a voxel, not more than a few per cent.
    assert np.mean(theirs[ours + theirs > 0] != ours[ours + theirs > 0]) < 0.05
