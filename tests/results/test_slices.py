"""The report's pictures of cases: which slices, at one scale, truth and prediction told apart."""

from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from unet3d.brats import regions
from unet3d.results.report import slices


def test_slices_show_best_middle_and_worst_case(tmp_path):
    rng = np.random.default_rng(0)
    scores = {name: {"WT": dice, "TC": dice, "ET": None} for name, dice in zip("abcde", (0.2, 0.9, 0.5, 0.7, 0.4), strict=True)}
    images = [tmp_path / f"{modality}.nii.gz" for modality in ("t1", "t1ce", "t2", "flair")]
    volume = rng.uniform(1, 100, (30, 24, 10))
    for path in images:
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    truth = np.zeros((10, 24, 30), np.uint8)
    truth[3, 4:6, 5:9], truth[7, 8:12, 9:15] = 1, 3
    predicted = np.roll(truth, 1, axis=2)
    kept = {name: slices.of_most_tumour(predicted, truth) for name in scores}
    slices.save(tmp_path, scores, kept, {name: SimpleNamespace(images=images) for name in scores})
    shown = slices.load(tmp_path, scores)
    assert [(case.place, case.name) for case in shown] == [("best", "b"), ("median", "c"), ("worst", "a")]
    assert shown[0].labels.z == 7  # most tumour
    np.testing.assert_array_equal(shown[0].labels.predicted, predicted[7])
    # z, y, x as nnU-Net has it, from a file in x, y, z; brighter stays brighter.
    assert np.corrcoef(shown[0].images["flair"].ravel(), volume[:, :, 7].T.ravel())[0, 1] > 0.99
    assert slices.load(tmp_path, {"another": {}}) == []
    # nibabel's axes run to the patient's right and SimpleITK's to the left: of an identity the first column is left.
    assert [case.sides for case in shown] == ["LR"] * 3
    box = slices.common_box(shown)
    assert slices.picture(shown[0], "t1ce", regions.REGIONS, dict.fromkeys(regions.REGIONS, "red"), box)[8:12] == b"WEBP"
    (tmp_path / slices.FILE).write_bytes(b"PK damaged")
    assert slices.load(tmp_path, scores) == []


def test_slice_where_the_truth_is_empty_is_that_of_the_prediction():
    predicted = np.zeros((5, 4, 4), np.uint8)
    predicted[2] = 1
    assert slices.of_most_tumour(predicted, np.zeros_like(predicted)).z == 2


@pytest.mark.parametrize(("first", "sides"), [((-1, 0, 0), "RL"), ((1, 0, 0), "LR"), ((0, 1, 0), "")])
def test_sides_are_those_of_the_file(tmp_path, first, sides):
    """first: where the first axis of the file runs, in nibabel's axes (right, anterior, superior)."""
    affine = np.eye(4)
    affine[:3, 0] = first
    affine[:3, 1] = (0, 1, 0) if first[0] else (1, 0, 0)
    image = tmp_path / "t1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 5, 4)), affine), image)
    truth = np.ones((4, 5, 6), np.uint8)
    kept = {"a": slices.of_most_tumour(truth, truth)}
    slices.save(tmp_path, {"a": {"WT": 1.0}}, kept, {"a": SimpleNamespace(images=[image] * 4)})
    assert slices.load(tmp_path, {"a": {}})[0].sides == sides


def pixels(case, box, colour="#00ff00"):
    from io import BytesIO

    from PIL import Image

    data = slices.picture(case, "flair", {"WT": (1,)}, {"WT": colour}, box)
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"), int)


def slice_of(image, predicted, truth):
    return slices.Slice("best", "a", slices.Labels(0, predicted, truth), {"flair": image, "t1ce": image}, "RL")


def test_pictures_of_heads_of_any_size_have_one_scale():
    small, large = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    small[20:40, 25:35], large[5:55, 2:50] = 200, 200
    none = np.zeros((60, 60), np.uint8)
    cases = [slice_of(image, none, none) for image in (small, large)]
    box = slices.common_box(cases)
    assert box == ((-1, 61), (-4, 56))
    assert pixels(cases[0], box).shape == pixels(cases[1], box).shape


@pytest.mark.parametrize("brightness", [0, 128, 255])
def test_the_truth_can_be_seen_on_any_tissue_and_on_the_prediction(brightness):
    image = np.full((60, 60), brightness, np.uint8)
    truth, predicted = np.zeros((60, 60), np.uint8), np.zeros((60, 60), np.uint8)
    truth[10:30, 10:30] = 1
    box = ((0, 60), (0, 60))

    def line(predicted):
        return pixels(slice_of(image, predicted, truth), box)[60:250, 50:250].reshape(-1, 3)

    alone = line(predicted)
    assert (alone.max(axis=1) < 60).sum() > 100 and (alone.min(axis=1) > 195).sum() > 100
    both = line(truth)
    green = (both[:, 1] > 150) & (both[:, 0] < 110) & (both[:, 2] < 110)
    assert green.sum() > 200  # the prediction shows on both sides of the truth


def test_pictures_of_which_one_is_damaged_are_none(tmp_path):
    grey = np.ones((4, 5), np.uint8)
    arrays = {
        f"{place}_{name}": array
        for place in ("best", "worst")
        for name, array in {**dict.fromkeys(("predicted", "truth", *slices.SHOWN), grey), "z": 1, "name": place}.items()
    }
    np.savez_compressed(tmp_path / slices.FILE, **arrays)
    scores = {"best": {}, "worst": {}}
    assert [case.name for case in slices.load(tmp_path, scores)] == ["best", "worst"]
    np.savez_compressed(tmp_path / slices.FILE, **{**arrays, "worst_truth": grey.astype(float)})
    assert slices.load(tmp_path, scores) == []
