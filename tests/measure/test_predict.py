"""Accuracy mode through the pipeline: the very Dice of one case after the other, and what a bad step in the middle leaves."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import making
import nibabel
import numpy as np
import pytest

from unet3d.brats import dataset, preprocessing, regions, sample_data, segmentations
from unet3d.errors import UserError
from unet3d.measure import accuracy
from unet3d.planning.group import SingleProcess

SHAPE = (64, 64, 64)


class Thresholds:
    """Stands for an engine: classes by the flair channel's brightness."""

    depth = 1

    def stage(self, volumes, slot=None):
        return volumes.copy()

    def infer(self, staged):
        return staged

    def labels(self, output):
        flair = output[:, 3]
        logits = np.stack([-flair + 0.5, flair - 0.4, 2 * flair - 1.3, 3 * flair - 3.1], axis=1)
        return logits.argmax(axis=1).astype(np.uint8)


class Overlapping(Thresholds):
    """The same with three calls under way, their labels in memory that is used again."""

    depth = 3

    def __init__(self):
        self.staged, self.memory = {}, {}

    def start(self, staged, slot):
        self.staged[slot] = staged

    def finish(self, slot):
        labels = self.labels(self.staged[slot])
        self.memory.setdefault(slot, labels)[:] = labels
        return SimpleNamespace(labels=self.memory[slot], latency=0.1, post=0.1, seconds_since=lambda earlier: 0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=5, size=(48, 48, 31), processes=1)
    preprocessing.preprocess(folder, folder / "store", processes=1, padded_shape=SHAPE)
    return folder


@pytest.fixture
def cases(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "data")
    by_name = {case.name: case for case in dataset.find_cases(folder)}
    return accuracy.Cases(sorted(by_name), by_name, preprocessing.Store(folder / "store", SHAPE))


def settings_of(tmp_path, batch=1):
    settings = making.settings_of(batch_size=batch, output_dir=tmp_path / "output")
    return replace(settings, save_segmentations=True)


def predict(engine, cases, settings):
    return accuracy.predict(engine, cases, settings, SingleProcess())


def segmented(tmp_path):
    """The segmentations that are there, by case, each read whole."""
    folder = tmp_path / "output" / "segmentations"
    return {
        file.name.removesuffix(".nii.gz"): np.asarray(nibabel.load(file).dataobj)
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
    }


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("make", [Thresholds, Overlapping])
def test_every_case_has_the_dice_of_its_own_labels(cases, tmp_path, make, batch):
    predictions = predict(make(), cases, settings_of(tmp_path, batch))
    assert list(predictions.scores) == list(cases.names)
    for name in cases.names:
        volume = cases.store.load(name)
        restored = preprocessing.restore(Thresholds().labels(volume.array[None])[0], volume.properties)
        truth = segmentations.read(cases.by_name[name].truth, volume.properties)
        assert predictions.scores[name] == regions.score(restored, truth)
    assert sorted(segmented(tmp_path)) == list(cases.names)


@pytest.mark.parametrize("make", [Thresholds, Overlapping])
def test_a_case_that_is_damaged_meanwhile_ends_the_run_after_those_before_it(cases, tmp_path, make):
    (cases.store.folder / f"{cases.names[3]}.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"{cases.names[3]}.* is damaged"):
        predict(make(), cases, settings_of(tmp_path))
    assert sorted(segmented(tmp_path)) == list(cases.names[:3])


@pytest.mark.parametrize("make", [Thresholds, Overlapping])
def test_a_full_disk_ends_the_run_and_leaves_whole_files(cases, tmp_path, make, monkeypatch):
    save, saved = segmentations.save, []

    def until_full(path, *rest):
        if len(saved) == 2:
            raise UserError(f"{path}: cannot be written (No space left on device); free some space")
        saved.append(path)
        save(path, *rest)

    monkeypatch.setattr(segmentations, "save", until_full)
    with pytest.raises(UserError, match="No space left"):
        predict(make(), cases, settings_of(tmp_path))
    assert sorted(segmented(tmp_path)) == list(cases.names[:2])
