"""Sample cases look like BraTS 2019 files, repeat with their seed, and never mix with other data."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from unet3d.brats import sample_data, workers
from unet3d.brats.sample_data import __main__ as command
from unet3d.brats.sample_data.anatomy import smooth_noise
from unet3d.errors import UserError

TINY = (48, 48, 31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    sample_data.make(folder, cases=7, seed=5, size=TINY, processes=workers.HERE)
    return folder


def read(folder, name, kind):
    grade, case = name.split("__")
    return nibabel.load(folder / grade / case / f"{case}_{kind}.nii.gz")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_names_and_layout(folder):
    names = sample_data.make(folder, cases=7, seed=5, size=TINY, processes=workers.HERE)
    assert names == [f"HGG__Sample_00{n}" for n in (1, 2, 3, 4, 6, 7)] + ["LGG__Sample_005"]
    assert len(files(folder)) == 7 * 5 + 1
    text = json.loads((folder / "dataset.json").read_text())["description"]
    assert "SYNTHETIC" in text and "MNI152" in text


def test_labels_by_kind_of_tumour(folder):
    for number in range(1, 8):
        name = f"{'LGG' if number == 5 else 'HGG'}__Sample_{number:03d}"
        labels = set(np.unique(read(folder, name, "seg").dataobj).tolist())
        assert labels == ({0, 1, 2} if number in (5, 7) else {0, 1, 2, 4}), name


def test_background_is_zero_and_modalities_share_the_brain(folder):
    brain = np.asarray(read(folder, "HGG__Sample_001", "t1").dataobj) > 0
    assert 0.1 < brain.mean() < 0.3 and not brain[0].any() and not brain[:, -1].any()
    for modality in sample_data.MODALITIES:
        image = np.asarray(read(folder, "HGG__Sample_001", modality).dataobj)
        assert image.dtype == np.int16 and image.shape == TINY
        assert np.array_equal(image > 0, brain)
    assert not np.asarray(read(folder, "HGG__Sample_001", "seg").dataobj)[~brain].any()


def test_contrasts_are_those_of_the_modalities(folder):
    images = {m: np.asarray(read(folder, "HGG__Sample_001", m).dataobj).astype(float) for m in sample_data.MODALITIES}
    seg = np.asarray(read(folder, "HGG__Sample_001", "seg").dataobj)
    healthy = (seg == 0) & (images["t1"] > 0)

    def relative(modality, label):
        return images[modality][seg == label].mean() / images[modality][healthy].mean()

    assert relative("t1ce", 4) > 1.15 > relative("t1", 4)
    assert relative("flair", 2) > 1.2 and relative("t2", 2) > 1.1
    assert relative("t1", 2) < 1


def test_geometry_is_that_of_brats(folder):
    path = folder / "HGG/Sample_001/Sample_001_t1.nii.gz"
    image = nibabel.load(path)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (1, 1, 1)
    itk = SimpleITK.ReadImage(str(path))
    assert itk.GetOrigin() == (0, -239, 0) and itk.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_same_seed_same_bytes_whatever_the_number_of_cases(folder, tmp_path):
    sample_data.make(tmp_path, cases=2, seed=5, size=TINY, processes=workers.HERE)
    whole = files(folder)
    assert all(whole[path] == content for path, content in files(tmp_path).items())
    sample_data.make(tmp_path / "other", cases=1, seed=6, size=TINY, processes=workers.HERE)
    t1 = "HGG/Sample_001/Sample_001_t1.nii.gz"
    assert (tmp_path / "other" / t1).read_bytes() != (tmp_path / t1).read_bytes()


def test_cases_differ_in_anatomy(folder):
    first, second = (np.asarray(read(folder, f"HGG__Sample_00{n}", "t1").dataobj) > 0 for n in (1, 2))
    assert np.mean(first != second) > 0.005


def test_existing_cases_are_kept_and_missing_ones_made_again(folder, tmp_path):
    sample_data.make(tmp_path, cases=2, seed=5, size=TINY, processes=workers.HERE)
    kept = tmp_path / "HGG/Sample_001/Sample_001_t1.nii.gz"
    before = kept.stat().st_mtime_ns
    for path in (tmp_path / "HGG/Sample_002").iterdir():
        path.unlink()
    (tmp_path / "HGG/Sample_002").rmdir()
    sample_data.make(tmp_path, cases=2, seed=5, size=TINY, processes=workers.HERE)
    assert kept.stat().st_mtime_ns == before
    assert files(tmp_path).items() <= files(folder).items()


def test_a_case_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", full_disk)
    with pytest.raises(UserError, match="Sample_001: No space left on device"):
        sample_data.make(tmp_path, cases=1, size=TINY, processes=workers.HERE)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


def test_refusals(folder, tmp_path):
    with pytest.raises(UserError, match=r"other sample data.*seed"):
        sample_data.make(folder, cases=1, seed=6, size=TINY)
    (tmp_path / "HGG").mkdir()
    with pytest.raises(UserError, match="not sample data"):
        sample_data.make(tmp_path, size=TINY)
    with pytest.raises(UserError, match="cases is 0"):
        sample_data.make(tmp_path / "new", cases=0)
    with pytest.raises(UserError, match="seed of sample cases is -1"):
        sample_data.make(tmp_path / "new", cases=1, seed=-1)
    with pytest.raises(UserError, match="allowed is a path of printable characters"):
        sample_data.make(tmp_path / "\x1b", cases=1)
    with pytest.raises(UserError, match="at least 24"):
        sample_data.make(tmp_path / "new", size=(8, 48, 48))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        sample_data.make(tmp_path / "file" / "below", size=TINY)


def test_command_answers_in_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path), "--cases", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(5, 30))
def test_smooth_noise_is_normal_and_smooth(seed, wavelength):
    axes = [np.arange(-n, n, 2.0) for n in (60, 70, 80)]
    noise = smooth_noise(np.random.default_rng(seed), axes, wavelength)
    assert noise.shape == (60, 70, 80) and noise.dtype == np.float32
    assert abs(noise.mean()) < 0.6 and 0.6 < noise.std() < 1.4
    # Steps of 2 mm change it by little more than 2 mm / wavelength; independent voxels would change by 1.4.
    assert np.diff(noise, axis=1).std() < 2 * 1.6 / wavelength
