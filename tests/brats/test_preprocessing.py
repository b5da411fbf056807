"""The preprocessing run: what it skips, names as bad, survives, and reads from others."""

import gzip
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from unet3d.brats import preprocessing, sample_data, segmentations, workers
from unet3d.brats.dataset import MODALITIES, find_cases
from unet3d.brats.preprocessing import Store, pad, preprocess, restore
from unet3d.brats.preprocessing.case import prepare
from unet3d.errors import UserError

TINY = (48, 48, 31)
SHAPE = (32, 48, 40)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=5, size=TINY, processes=workers.HERE)
    return folder


@pytest.fixture
def data(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "data"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def run(data, store, names=None, processes=workers.HERE):
    return preprocess(data, store, names, processes, padded_shape=SHAPE)


def file_of(data, kind, number=1):
    return data / "HGG" / f"Sample_00{number}" / f"Sample_00{number}_{kind}.nii.gz"


def edit(file, change):
    """Saves a NIfTI file anew with `change(array)` for its array; float32, so that it can hold anything."""
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(change(np.asarray(image.dataobj, np.float32)), image.affine), file)


def with_voxel(value):
    def change(array):
        array[24, 24, 15] = value
        return array

    return change


def test_by_hand(tmp_path):
    # Two voxels in a row per modality, 1 and 3: mean 2, standard deviation 1, so -1 and 1. The rest is background.
    folder = tmp_path / "HGG" / "A"
    folder.mkdir(parents=True)
    for modality in MODALITIES:
        array = np.zeros((5, 6, 7), np.float32)
        array[2:4, 1, 3] = 1, 3
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"A_{modality}.nii.gz")
    volume = prepare(find_cases(tmp_path)[0])
    assert volume.array.shape == (4, 1, 1, 2)
    assert volume.array.reshape(4, 2) == pytest.approx(np.tile([-1.0, 1.0], (4, 1)))
    # Axes are z, y, x: the box is [3], [1], [2, 3].
    assert volume.properties["crop_bbox"] == [[3, 4], [1, 2], [2, 4]]
    assert volume.properties["original_size_of_raw_data"] == [7, 6, 5]
    padded = pad(volume.array, (4, 3, 4))
    assert padded.shape == (4, 4, 3, 4)
    assert padded[0, 1, 1].tolist() == pytest.approx([0, -1, 1, 0]) and np.count_nonzero(padded) == 8

    labels = np.zeros((4, 3, 4), np.uint8)
    labels[1, 1] = 0, 2, 3, 1
    restored = restore(labels, volume.properties)
    assert restored.shape == (7, 6, 5) and restored[3, 1].tolist() == [0, 0, 2, 3, 0]
    assert np.count_nonzero(restored) == 2


def test_all_cases_then_none(data, store):
    report = run(data, store, processes=2)
    assert report.done == [case.name for case in find_cases(data)] and not report.skipped and not report.failed
    times = {file: file.stat().st_mtime_ns for file in store.iterdir()}
    again = run(data, store)
    assert again.skipped == report.done and not again.done
    assert times == {file: file.stat().st_mtime_ns for file in store.iterdir()}
    assert Store(store).names() == report.done


def test_stored_volume_is_normalised(data, store):
    run(data, store, ["HGG__Sample_001"])
    volume = Store(store, SHAPE).load("HGG__Sample_001")
    assert volume.array.dtype == np.float32 and volume.array.shape == (4, *SHAPE)
    for image in volume.array:
        assert image[image != 0].mean() == pytest.approx(0, abs=1e-3)
        assert image[image != 0].std() == pytest.approx(1, abs=1e-2)
    truth = segmentations.read(file_of(data, "seg"), volume.properties)
    assert restore(np.ones(SHAPE, np.uint8), volume.properties)[truth > 0].all()


def test_only_named_cases(data, store):
    report = run(data, store, ["HGG__Sample_002", "HGG__Nobody"])
    assert report.done == ["HGG__Sample_002"]
    assert report.failed == {"HGG__Nobody": f"no such case in {data}"}


def test_nothing_but_npz_without_pickles_is_written(data, store):
    run(data, store, ["HGG__Sample_001"])
    (file,) = store.iterdir()
    assert file.name == "HGG__Sample_001.npz"
    with np.load(file, allow_pickle=False) as content:
        assert sorted(content) == ["about", "array"]
        assert json.loads(str(content["about"]))["version"] == preprocessing.store.VERSION


def test_a_case_without_truth_is_preprocessed(data, store):
    file_of(data, "seg").unlink()
    assert run(data, store, ["HGG__Sample_001"]).done


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-500])


def flip_bits(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


BAD = {
    "missing": ("t1ce", Path.unlink, r"missing modality t1ce: no file .*_t1ce.nii.gz"),
    "cut": ("t2", cut_short, r"t2 is not a whole gzip file"),
    "corrupt": ("t2", flip_bits, r"t2 is not a whole gzip file"),
    "not_gzip": ("flair", lambda f: f.write_bytes(b"hello"), r"flair is not a whole gzip file"),
    "not_nifti": ("flair", lambda f: f.write_bytes(gzip.compress(b"hello")), r"flair is not a NIfTI file"),
    "shape": ("t2", lambda f: edit(f, lambda a: a[1:]), r"shapes differ: t1 48x48x31, .*t2 47x48x31"),
    "truth_shape": ("seg", lambda f: edit(f, lambda a: a[:, 1:]), r"shapes differ: .*seg 48x47x31"),
    "nan": ("t1", lambda f: edit(f, with_voxel(np.nan)), r"t1 has 1 voxels that are NaN or infinite"),
    "infinite": ("flair", lambda f: edit(f, with_voxel(np.inf)), r"flair has 1 voxels that are NaN or infinite"),
    "truth_nan": ("seg", lambda f: edit(f, with_voxel(np.nan)), r"seg has 1 voxels that are NaN or infinite"),
    "zero": ("t2", lambda f: edit(f, np.zeros_like), r"t2 is zero everywhere"),
    "label": ("seg", lambda f: edit(f, with_voxel(3)), r"_seg.nii.gz: unexpected label 3; allowed are 0, 1, 2, 4"),
    "large": ("t1", lambda f: edit(f, np.ones_like), r"larger than the padded shape: .*31x48x48.*32x48x40 fits"),
    "folder": ("t1", lambda f: (f.unlink(), f.mkdir()), r"missing modality t1"),
}


def test_bad_cases_are_named_and_the_rest_finish(pristine, tmp_path):
    data, store = tmp_path / "data", tmp_path / "store"
    for name, (kind, spoil, _) in BAD.items():
        folder = data / "HGG" / name
        folder.mkdir(parents=True)
        for source in (pristine / "HGG" / "Sample_001").iterdir():
            shutil.copy(source, folder / source.name.replace("Sample_001", name))
        spoil(folder / f"{name}_{kind}.nii.gz")
    shutil.copytree(pristine / "HGG" / "Sample_002", data / "HGG" / "Sample_002")

    report = run(data, store)
    assert report.done == ["HGG__Sample_002"] == Store(store).names()
    assert list(report.failed) == sorted(f"HGG__{name}" for name in BAD)
    for name, (_, _, reason) in BAD.items():
        assert re.search(reason, report.failed[f"HGG__{name}"]), report.failed[f"HGG__{name}"]
        assert "\n" not in report.failed[f"HGG__{name}"]


def test_differing_spacing_is_named(data, store):
    file = file_of(data, "t2")
    nibabel.save(nibabel.Nifti1Image(np.asarray(nibabel.load(file).dataobj), np.diag([-1.0, -1, 2, 1])), file)
    assert "t2 and t1 differ in spacing" in run(data, store, ["HGG__Sample_001"]).failed["HGG__Sample_001"]


def test_changed_sources_are_noticed_copies_are_not(data, store, tmp_path, monkeypatch):
    name = ["HGG__Sample_001"]
    run(data, store, name)
    copy = Path(shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile))
    assert run(copy, store, name).skipped == name

    before = Store(store, SHAPE).load(name[0]).array
    edit(file_of(data, "t2"), with_voxel(5000))
    assert run(data, store, name).done == name
    assert not np.array_equal(before[2], Store(store, SHAPE).load(name[0]).array[2])

    monkeypatch.setattr(preprocessing.store, "VERSION", preprocessing.store.VERSION + 1)
    assert run(data, store, name).done == name


def test_a_replaced_truth_is_looked_at_again(data, store):
    name = "HGG__Sample_001"
    run(data, store, [name])
    edit(file_of(data, "seg"), with_voxel(4))
    assert run(data, store, [name]).done == [name]
    edit(file_of(data, "seg"), with_voxel(3))
    assert "unexpected label 3" in run(data, store, [name]).failed[name]
    file_of(data, "seg").unlink()
    assert run(data, store, [name]).done == [name]


def test_a_case_whose_place_is_taken_costs_itself_only(data, store):
    (store / "HGG__Sample_001.npz").mkdir(parents=True)
    report = run(data, store)
    assert len(report.done) == 4 and "is a folder; remove it" in report.failed["HGG__Sample_001"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_stored_volumes_that_are_not_finite_are_not_scored(data, store, value):
    run(data, store, ["HGG__Sample_001"])
    file = store / "HGG__Sample_001.npz"
    with np.load(file) as content:
        array, about = content["array"].copy(), content["about"]
    array[2, 5, 5, 5] = value
    np.savez(file, array=array, about=about)
    with pytest.raises(UserError, match="is damaged"):
        Store(store, SHAPE).load("HGG__Sample_001")


@pytest.mark.parametrize("damage", [cut_short, flip_bits, lambda f: f.write_bytes(b""), lambda f: np.savez(f, a=1)])
def test_damaged_store_files_never_give_a_volume(data, store, damage):
    run(data, store, ["HGG__Sample_001"])
    damage(store / "HGG__Sample_001.npz")
    with pytest.raises(UserError, match=r"is damaged; remove it and run ./preprocess.sh"):
        Store(store, SHAPE).load("HGG__Sample_001")


def test_absent_case_names_the_remedy(store):
    with pytest.raises(UserError, match=r"HGG__X is not in .*preprocess.sh.*PREPROCESSED_DIR"):
        Store(store).load("HGG__X")


def test_pickles_in_a_store_file_are_not_loaded(store):
    store.mkdir()
    np.savez(store / "HGG__X.npz", array=np.array([object()]), about=np.array("{}"))
    with pytest.raises(UserError, match="damaged"):
        Store(store).load("HGG__X")


def test_store_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written.*\./preprocess\.sh.*PREPROCESSED_DIR"):
        run(data, tmp_path / "file" / "store")


def test_full_disk_stops_the_run_and_leaves_nothing(data, store, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(data, store)
    assert list(store.iterdir()) == []


def test_read_only_store_that_is_complete_is_enough(data, store, monkeypatch):
    run(data, store)
    monkeypatch.setattr(Store, "prepare", lambda self: pytest.fail("wrote to a store that was complete"))
    assert len(run(data, store).skipped) == 5


SCRIPT = """
import sys
from unet3d.brats import workers
from unet3d.brats.preprocessing import preprocess
if __name__ == "__main__":
    print(len(preprocess(sys.argv[1], sys.argv[2], None, workers.HERE, (32, 48, 40)).done))
"""


def start(data, store, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(data), str(store)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_killed_run_is_resumed(data, store, tmp_path):
    process = start(data, store, tmp_path)
    deadline = time.monotonic() + 60
    while not list(store.glob("*.npz")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = Store(store, SHAPE).names()
    for name in kept:
        Store(store, SHAPE).load(name)
    report = run(data, store)
    assert report.skipped == kept and len(report.done) + len(kept) == 5


def test_leftovers_of_killed_runs_are_removed_but_not_those_of_running_ones(data, store):
    store.mkdir()
    old, young = store / ".partial-old.tmp", store / ".partial-young.tmp"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    run(data, store, ["HGG__Sample_001"])
    assert sorted(f.name for f in store.iterdir()) == [young.name, "HGG__Sample_001.npz"]


def test_two_runs_at_once(data, store, tmp_path):
    processes = [start(data, store, tmp_path) for _ in range(2)]
    done = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and sum(done) >= 5
    assert len(run(data, store).skipped) == 5
    assert len(list(store.iterdir())) == 5


def mlperf_folder(folder, name="HGG__BraTS19_X", shape=SHAPE, **changes):
    """A folder as MLPerf's preprocess.py leaves it: pickles of the volume and nnU-Net's properties."""
    folder.mkdir()
    properties = OrderedDict(
        original_size_of_raw_data=np.array([155, 240, 240]), original_spacing=np.array([1.0, 1.0, 1.0]),
        list_of_data_files=["a_0000.nii.gz"], seg_file=None, itk_origin=(0.0, -239.0, 0.0),
        itk_spacing=(1.0, 1.0, 1.0), itk_direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
        crop_bbox=[[1, 31], [2, 42], [3, 33]], classes=np.array([-1.0, 0.0]), size_after_cropping=(30, 40, 30),
        size_after_resampling=(30, 40, 30), spacing_after_resampling=np.array([1.0, 1.0, 1.0]),
    )  # fmt: skip
    properties.update(changes)
    array = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    (folder / "preprocessed_files.pkl").write_bytes(pickle.dumps([name]))
    (folder / f"{name}.pkl").write_bytes(pickle.dumps([array, properties]))
    return array


def test_mlperf_folder_is_read_and_never_written(data, store):
    array = mlperf_folder(store)
    before = sorted(store.iterdir())
    reader = Store(store, SHAPE)
    assert reader.is_mlperf and reader.names() == ["HGG__BraTS19_X"]
    volume = reader.load("HGG__BraTS19_X")
    assert np.array_equal(volume.array, array)
    assert restore(np.ones(SHAPE, np.uint8), volume.properties).sum() == 30 * 40 * 30
    report = run(data, store, ["HGG__BraTS19_X", "HGG__Sample_001"])
    assert report.skipped == ["HGG__BraTS19_X"] and "MLPerf" in report.failed["HGG__Sample_001"]
    assert sorted(store.iterdir()) == before
    with pytest.raises(UserError, match="MLPerf"):
        reader.load("HGG__Sample_001")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-exist",)


def test_malicious_mlperf_pickles_are_refused_by_name(store):
    mlperf_folder(store, classes=Malicious())
    with pytest.raises(UserError, match="system"):
        Store(store, SHAPE).load("HGG__BraTS19_X")
    (store / "preprocessed_files.pkl").write_bytes(pickle.dumps([Malicious()]))
    with pytest.raises(UserError, match="system"):
        Store(store).names()


def test_odd_mlperf_pickles_are_refused(tmp_path):
    mlperf_folder(tmp_path / "shape", shape=(8, 8, 8))
    with pytest.raises(UserError, match=r"\(8, 8, 8\); allowed is \(32, 48, 40\)"):
        Store(tmp_path / "shape", SHAPE).load("HGG__BraTS19_X")
    mlperf_folder(tmp_path / "box", crop_bbox="none")
    with pytest.raises(UserError, match=r"is not \[volume, properties\]"):
        Store(tmp_path / "box", SHAPE).load("HGG__BraTS19_X")
    (tmp_path / "box" / "preprocessed_files.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not a list of case names"):
        Store(tmp_path / "box").names()
