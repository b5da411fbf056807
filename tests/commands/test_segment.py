"""Whole cases from NIfTI to NIfTI: nnU-Net's own segmentation voxel by voxel, and what bad cases and signals leave."""

import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from making import plan_of

from unet3d import cli
from unet3d.brats import dataset, sample_data
from unet3d.brats.preprocessing import case as whole_case
from unet3d.brats.preprocessing import nnunet, pad
from unet3d.brats.preprocessing.nnunet import quiet
from unet3d.brats.preprocessing.volume import inner_slices
from unet3d.errors import MismatchError
from unet3d.measure import full_size
from unet3d.measure.segment import make_engine
from unet3d.network.cpu_ops import build
from unet3d.results.console import Console
from unet3d.results.record import Record
from unet3d.workload import NNUNET_TO_BRATS

ROOT = Path(__file__).parents[2]
SHAPE = (64, 64, 64)
WORDS = ["--platform", "CPU", "--precision", "fp32", "--jit", "none", "--network", "reference", "--volume-shape", "64,64,64"]
WORDS += ["--weights", "sample"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=3, size=(48, 48, 31), processes=1)
    return folder


@pytest.fixture
def data(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def segment(path, output):
    return cli.main(["segment", str(path), *WORDS, "--output-dir", str(output)])


def told(output):
    return json.loads((output / "segment.json").read_text())


def by_nnunet(case, target):
    """What nnU-Net 1.7.1 writes for the logits of its own network with the same weights."""
    import torch

    from unet3d.brats import weights
    from unet3d.network import reference

    loaded = weights.load("sample", fold=1)
    network = reference.build(loaded.plans, loaded.state_dict)
    volume = whole_case.prepare(case, SHAPE)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pad(volume.array, SHAPE))[None])[0]
    inner = logits[:, *inner_slices(volume.properties["size_after_resampling"], SHAPE)].softmax(0).numpy()
    with quiet():
        from nnunet.inference.segmentation_export import save_segmentation_nifti_from_softmax

        save_segmentation_nifti_from_softmax(inner, str(target), copy.deepcopy(volume.properties), 1, verbose=False)
    return np.asarray(nibabel.load(target).dataobj)


def test_segmentations_are_nnunets_voxel_by_voxel(data, tmp_path, capsys):
    output = tmp_path / "output"
    assert segment(data, output) == 0
    for case in dataset.find_cases(data):
        ours = nibabel.load(output / "segmentations" / f"{case.name}.nii.gz")
        theirs = by_nnunet(case, tmp_path / "theirs.nii.gz")
        renumbered = np.vectorize(NNUNET_TO_BRATS.get)(theirs)
        assert len(np.unique(renumbered)) > 1
        assert np.array_equal(np.asarray(ours.dataobj), renumbered)
        assert np.allclose(ours.affine, nibabel.load(case.images[0]).affine)
    document = told(output)
    names = [case.name for case in dataset.find_cases(data)]
    assert document["complete"] and [case["name"] for case in document["cases"]] == names
    for case in document["cases"]:
        assert set(case["seconds"]) == {"read", "preprocess", "stage", "network", "labels", "export"}
        assert 0 < sum(case["seconds"].values()) <= case["total_s"] + 1e-6
    assert document["effective"]["precision"] == "fp32" and document["weights"]["kind"] == "sample"
    printed = capsys.readouterr().out
    assert all(name in printed for name in names) and "3 cases in" in printed


def test_the_engine_is_compared_with_fp32_at_full_size_too(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case, found = str(dataset.find_cases(data)[0].folder), {}
    for check in ("yes", "no"):
        words = [word.replace("64,64,64", "96,64,64") for word in WORDS]
        words += ["--full-size-check", check, "--output-dir", str(tmp_path / check)]
        assert cli.main(["segment", case, *words]) == 0
        found[check] = told(tmp_path / check)["full_size_check"]
    assert found["yes"]["shape"] == [1, 4, 96, 64, 64] and found["yes"]["relative_error"] < 1e-3
    assert found["no"] is None
    assert capsys.readouterr().out.count("check at full size: relative error") == 1


def test_an_engine_that_is_wrong_at_full_size_segments_nothing(tmp_path, monkeypatch):
    def other(reference, shape, cache_dir):
        return full_size.Expected(shape, np.ones((full_size.VOXELS, 4), np.float32))

    monkeypatch.setattr(full_size, "expected", other)
    plan = plan_of(volume_shape="96,64,64", jit="none", network="reference", weights="sample", precision="fp32")
    with pytest.raises(MismatchError, match="at full size"):
        make_engine(plan, Record(plan.settings), Console(stream=io.StringIO()))


def test_one_case_needs_no_data_set_and_no_truth(data, tmp_path):
    case = dataset.find_cases(data)[0]
    case.truth.unlink()
    folder = shutil.move(case.folder, tmp_path / case.folder.name)
    assert segment(folder, tmp_path / "output") == 0
    assert [file.name for file in (tmp_path / "output" / "segmentations").iterdir()] == [f"{case.folder.name}.nii.gz"]


def test_what_the_engine_warns_of_is_told(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "status", lambda: ("fallback", "no C++ compiler (install g++)"))
    words = [*(word.replace("reference", "fast") for word in WORDS), "--output-dir", str(tmp_path / "output")]
    assert cli.main(["segment", str(dataset.find_cases(data)[0].folder), *words]) == 0
    assert "fallback-operators" in [warning["name"] for warning in told(tmp_path / "output")["warnings"]]
    assert "WARNING[fallback-operators]" in capsys.readouterr().out


def test_a_bad_case_in_the_middle_costs_itself_only(data, tmp_path, capsys):
    first, bad, last = dataset.find_cases(data)
    bad.images[2].write_bytes(b"nothing")
    assert segment(data, tmp_path / "output") == 1
    document = told(tmp_path / "output")
    assert [case["name"] for case in document["cases"]] == [first.name, last.name] and document["complete"]
    assert list(document["failed"]) == [bad.name] and "t2 is not a whole gzip file" in document["failed"][bad.name]
    assert f"ERROR: {bad.name}: t2" in capsys.readouterr().out
    written = {file.name for file in (tmp_path / "output" / "segmentations").iterdir()}
    assert written == {f"{first.name}.nii.gz", f"{last.name}.nii.gz"}


def test_an_earlier_runs_segmentations_are_renamed(data, tmp_path):
    case = dataset.find_cases(data)[0].folder
    for _ in range(2):
        assert segment(case, tmp_path / "output") == 0
    assert len(list((tmp_path / "output").glob("segmentations*"))) == 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "name the folder of a case or of a data set first"),
        (["--precision", "fp32"], "name the folder of a case or of a data set first"),
        (["{empty}"], "holds no case"),
        (["{empty}/absent"], "holds no case"),
        (["{data}", "--batch-size", "2"], "BATCH_SIZE=2 with segment is not possible"),
        (["{data}", "--streams", "2", "--threads", "2"], "STREAMS=2 with segment is not possible"),
        (["{data}", "--precision", "fp64"], "--precision"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, part, made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    monkeypatch.setenv("PLATFORM", "CPU")
    (tmp_path / "empty").mkdir()
    words = [word.format(empty=tmp_path / "empty", data=made) for word in words]
    assert cli.main(["segment", *words]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and part in errors[0]
    assert not (tmp_path / "output").exists()


def test_a_signal_leaves_whole_segmentations_and_an_incomplete_document(data, tmp_path):
    for number in range(4, 40):
        shutil.copytree(data / "HGG" / "Sample_001", data / "HGG" / f"Sample_{number:03}")
        for file in (data / "HGG" / f"Sample_{number:03}").iterdir():
            file.rename(file.with_name(file.name.replace("Sample_001", f"Sample_{number:03}")))
    output, clean = tmp_path / "output", {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    words = [sys.executable, ROOT / "predict.py", "segment", data, *WORDS, "--output-dir", output]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean, cwd=ROOT)
    until = time.monotonic() + 120
    while not list((output / "segmentations").glob("[!.]*.nii.gz")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 143, printed
    document = told(output)
    assert not document["complete"] and document["incomplete_reason"] == "stopped by SIGTERM"
    assert 1 <= len(document["cases"]) < 39 and "INCOMPLETE: stopped by SIGTERM" in printed
    for case in document["cases"]:
        assert nibabel.load(output / "segmentations" / case["file"]).get_fdata().shape == (48, 48, 31)


def test_files_read_at_the_same_time_are_the_same_scan(made):
    case = dataset.find_cases(made)[1]
    alone, together = whole_case.read(case), whole_case.read(case, truth=False, threads=4)
    assert np.array_equal(alone.array, together.array) and alone.array.dtype == together.array.dtype
    assert alone.properties.keys() == together.properties.keys()
    assert all(np.array_equal(alone.properties[key], together.properties[key]) for key in alone.properties)


def test_a_scan_is_nnunets_to_the_last_bit(made):
    """Which of nnU-Net's readings are left out is decided by the files: scaled ones are read by it."""
    case = dataset.find_cases(made)[0]
    expected, properties = nnunet.load(case.images)
    scan = whole_case.read(case, truth=False, threads=2)
    assert np.array_equal(scan.array, expected) and scan.array.dtype == expected.dtype
    assert scan.properties.keys() == properties.keys()
    assert all(np.array_equal(scan.properties[key], properties[key]) for key in properties)
