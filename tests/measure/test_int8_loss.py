"""What int8 loses is measured against nnU-Net in fp32 on the same cases, once, and warned of."""

import json

import numpy as np
import pytest
import torch

from unet3d.brats import dataset, preprocessing, sample_data
from unet3d.measure import int8_loss
from unet3d.measure.accuracy import Cases, Predictions
from unet3d.results.facts import Dice


class Silent:
    def __init__(self):
        self.lines = []

    def info(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    names = sample_data.make(folder, 2, seed=5, size=(40, 40, 32), processes=1)
    store = preprocessing.Store(folder / "store", padded_shape=(64, 64, 64))
    preprocessing.preprocess(folder, store.folder, names, processes=1, padded_shape=(64, 64, 64))
    return Cases(names, {case.name: case for case in dataset.find_cases(folder)}, store)


def test_scores_are_nnunets_own_and_computed_once(narrow_reference, cases, tmp_path):
    first = int8_loss.fp32_scores(narrow_reference, cases, tmp_path)
    for name in cases.names:
        volume = cases.store.load(name)
        with torch.inference_mode():
            labels = narrow_reference(torch.from_numpy(volume.array[None])).numpy().argmax(axis=1)[0].astype(np.uint8)
        predictions = Predictions()
        predictions.add(cases.by_name[name], volume.properties, labels, None)
        assert first[name] == predictions.scores[name]
    calls = []
    hook = narrow_reference.register_forward_pre_hook(lambda *_: calls.append(1))
    assert int8_loss.fp32_scores(narrow_reference, cases, tmp_path) == first
    hook.remove()
    assert calls == []


@pytest.mark.parametrize(("share", "warned"), [(0.995, False), (0.985, True)])
def test_a_loss_of_more_than_one_percent_is_a_warning(narrow_reference, cases, tmp_path, monkeypatch, share, warned):
    fp32 = {name: {"WT": 0.9, "TC": 0.8, "ET": None} for name in cases.names}
    monkeypatch.setattr(int8_loss, "fp32_scores", lambda *_: fp32)
    dice = Dice({"WT": 0.9, "TC": 0.8 * share, "ET": None}, 0.85, {}, {})
    loss = int8_loss.compare(dice, narrow_reference, cases, tmp_path, Silent())
    assert loss.dice.fp32.relative_loss["TC"] == pytest.approx(1 - share)
    assert loss.dice.fp32.relative_loss["ET"] is None
    assert loss.dice.of("TC") == dice.of("TC"), "the run's own Dice stays"
    assert [warning.name for warning in loss.told.warnings] == (["int8-accuracy"] if warned else [])


def test_scores_that_were_changed_in_the_cache_are_made_again(narrow_reference, cases, tmp_path):
    first = int8_loss.fp32_scores(narrow_reference, cases, tmp_path)
    for file in tmp_path.rglob(int8_loss.FILE):
        file.write_text(json.dumps({"WT": 1.0, "TC": 1.0, "ET": 1.0}))
    assert int8_loss.fp32_scores(narrow_reference, cases, tmp_path) == first
