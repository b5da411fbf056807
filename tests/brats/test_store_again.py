"""A case that is loaded again is the same volume, read without its checks as long as the file is the same."""

import shutil

import numpy as np
import pytest

from unet3d.brats import npz, preprocessing, sample_data, workers
from unet3d.brats.preprocessing import Store, store
from unet3d.errors import UserError

SHAPE = (32, 48, 40)
NAME, OTHER = "HGG__Sample_001", "HGG__Sample_002"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=2, size=(36, 30, 28), processes=1)
    preprocessing.preprocess(folder, folder / "store", processes=workers.HERE, padded_shape=SHAPE)
    return folder / "store"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def test_it_is_the_same_volume_and_nobodys_but_the_callers(folder, monkeypatch):
    kept = Store(folder, SHAPE)
    first = kept.load(NAME)
    expected, properties = first.array.copy(), dict(first.properties)
    first.array[:] = 7
    first.properties["crop_bbox"] = None
    # Nothing is decompressed, summed up or checked again.
    for module, name in ((npz, "read"), (store, "check_values")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("the file was checked again"))
    for _ in range(2):
        again = kept.load(NAME)
        assert np.array_equal(again.array, expected) and again.properties == properties
        again.array[:] = 7


def test_a_file_that_was_replaced_is_another_volume(folder):
    kept = Store(folder, SHAPE)
    kept.load(NAME)
    (folder / f"{OTHER}.npz").replace(folder / f"{NAME}.npz")
    expected = Store(folder, SHAPE).load(NAME)
    again = kept.load(NAME)
    assert np.array_equal(again.array, expected.array) and again.properties == expected.properties


@pytest.mark.parametrize("kept_bytes", [0, 100, 40000])
def test_a_file_that_was_cut_meanwhile_is_damaged(folder, kept_bytes):
    kept = Store(folder, SHAPE)
    kept.load(NAME)
    with open(folder / f"{NAME}.npz", "r+b") as file:
        file.truncate(kept_bytes)
    with pytest.raises(UserError, match="is damaged"):
        kept.load(NAME)


def test_compressed_and_turned_arrays_are_checked_each_time(folder):
    file = folder / f"{NAME}.npz"
    expected = Store(folder, SHAPE).load(NAME).array
    with np.load(file) as content:
        array, about = content["array"], content["about"]
    for save, written in ((np.savez_compressed, array), (np.savez, np.asfortranarray(array))):
        save(file, array=written, about=about)
        kept = Store(folder, SHAPE)
        for _ in range(2):
            assert np.array_equal(kept.load(NAME).array, expected)
