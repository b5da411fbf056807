"""Where preprocessed volumes go when the data set cannot be written to.

Tests may run as root, whom no mode stops: a file in the place of a folder does.
"""

import shutil

import pytest
from making import settings_of

from unet3d import cli
from unet3d.brats import preprocessing, sample_data
from unet3d.brats.dataset import default_store

SHAPE = (64, 64, 32)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=5, size=(48, 48, 31), processes=1)
    return folder


@pytest.fixture
def data(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "data")


def lock(data):
    (data / "build").write_text("not a folder")


def test_beside_the_data_where_that_can_be_written_to(data, tmp_path):
    assert preprocessing.choose_store(data, tmp_path / "out") == (default_store(data), "beside the data")
    assert not default_store(data).exists()


def test_in_the_output_folder_otherwise_with_the_reason(data, tmp_path):
    lock(data)
    folder, reason = preprocessing.choose_store(data, tmp_path / "out")
    assert folder == tmp_path / "out" / "preprocessed_data"
    assert reason == f"{default_store(data)} cannot be written to"


def test_volumes_that_are_beside_read_only_data_are_used(data, tmp_path, monkeypatch):
    preprocessing.preprocess(data, default_store(data), processes=1, padded_shape=SHAPE)
    monkeypatch.setattr("unet3d.files.can_write", lambda folder: False)
    assert preprocessing.choose_store(data, tmp_path / "out")[0] == default_store(data)
    next(default_store(data).glob("*.npz")).unlink()
    assert preprocessing.choose_store(data, tmp_path / "out")[0] == tmp_path / "out" / "preprocessed_data"


def test_a_plan_has_the_folder_and_its_reason_and_a_named_one_is_kept(data, tmp_path):
    lock(data)
    common = {"dummy": "no", "dataset_dir": data, "output_dir": tmp_path / "out", "fold": 0}
    settings = settings_of(**common)
    assert settings.preprocessed_dir == tmp_path / "out" / "preprocessed_data"
    assert "cannot be written to" in settings.reasons["preprocessed_dir"]
    named = settings_of(**common, preprocessed_dir=tmp_path / "mine")
    assert named.preprocessed_dir == tmp_path / "mine" and "preprocessed_dir" not in named.reasons


def test_preprocessing_ahead_puts_them_where_a_run_looks(data, tmp_path, monkeypatch, capsys):
    lock(data)
    monkeypatch.setenv("DATASET_DIR", str(data))
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    monkeypatch.delenv("PREPROCESSED_DIR", raising=False)
    assert cli.main(["preprocess"]) == 0
    told = capsys.readouterr().out
    assert f"volumes are in {tmp_path / 'out' / 'preprocessed_data'} ({default_store(data)} cannot be written to)" in told
    assert len(list((tmp_path / "out" / "preprocessed_data").glob("*.npz"))) == 5
