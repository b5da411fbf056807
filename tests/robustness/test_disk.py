"""Full disks, folders that cannot be written to, kill -9 at random moments: what was there stays, and is whole."""

import contextlib
import errno
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from unet3d import cli, files, signals
from unet3d.brats import preprocessing, segmentations
from unet3d.brats.dataset import MODALITIES, find_cases
from unet3d.brats.preprocessing import Store
from unet3d.brats.preprocessing.case import prepare
from unet3d.brats.weights import unpack
from unet3d.commands import run as run_verb
from unet3d.errors import UserError
from unet3d.results.console import Console

ROOT = Path(__file__).parents[2]
SHAPE = (32, 32, 32)


@contextlib.contextmanager
def room_for(count):
    """Limits how long any file of this process may become, as a full disk does: writing beyond fails with an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def one_line(caught):
    assert "\n" not in str(caught.value) and str(caught.value)


@pytest.mark.parametrize("room", [0, 1, 100, 5000])
def test_results_survive_a_full_disk(tmp_path, room):
    path = tmp_path / "results.json"
    files.write_atomically(path, "old")
    with pytest.raises(UserError, match="results.json: cannot be written") as caught, room_for(room):
        files.write_atomically(path, "x" * 10_000)
    one_line(caught)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("room", [0, 100, 300])
def test_segmentations_volumes_and_weights_survive_a_full_disk(tmp_path, room):
    case = make_case(tmp_path / "data")
    volume = prepare(case, SHAPE)
    store = Store(tmp_path / "store", SHAPE)
    store.prepare()
    archive = tmp_path / "fold_1.zip"
    pack(archive)
    labels = np.random.default_rng(0).integers(0, 4, volume.properties["original_size_of_raw_data"], dtype=np.uint8)
    for work in (
        lambda: store.save(case, volume, {}),
        lambda: unpack.unpack(archive, tmp_path / "weights"),
        lambda: segmentations.save(tmp_path / "s.nii.gz", labels, volume.properties),
    ):
        with pytest.raises(UserError) as caught, room_for(room):
            work()
        one_line(caught)
    assert not list((tmp_path / "store").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fold_1.zip", "store"]


def test_a_log_that_cannot_grow_does_not_end_the_run(tmp_path):
    printed = io.StringIO()
    out = Console(stream=printed)
    out.open_log(tmp_path / "output_raw.log")
    out.line("before")
    with contextlib.redirect_stderr(io.StringIO()) as warned, room_for(7):
        for number in range(3):
            out.line(f"line {number}")
    out.close()
    assert printed.getvalue().splitlines() == ["before", "line 0", "line 1", "line 2"]
    assert warned.getvalue().count("output_raw.log ends here") == 1
    assert (tmp_path / "output_raw.log").read_text() == "before\n"


@pytest.mark.parametrize("name", ["output_raw.log", "results.json"])
def test_folders_in_the_place_of_output_files(name, in_process, tmp_path, capsys, monkeypatch):
    """They are renamed as earlier results are; where that fails it is told."""
    (tmp_path / name).mkdir()
    assert in_process("--weights", str(tmp_path), "--output-dir", str(tmp_path)) == 2
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1

    def refuse(path, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", refuse)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    capsys.readouterr()
    assert in_process("--weights", str(tmp_path), "--output-dir", str(tmp_path)) == 2
    assert "cannot be renamed (Read-only file system)" in capsys.readouterr().err


@pytest.fixture
def in_process(monkeypatch):
    """Whole runs in this process: what ends it ends the call instead."""

    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(run_verb.os, "_exit", end)
    monkeypatch.setattr(signals, "end_children", lambda: None)

    def run(*words):
        try:
            return cli.main([*words, "--platform", "CPU", "--volume-shape", "64,32,32", "--warm-up", "0", "--jit", "none"])
        except Ended as ended:
            return ended.args[0]

    return run


WEIGHTS = {
    "text": b"no archive",
    "empty": b"",
    "cut": None,
    "zip of nothing": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_runs_with_bad_weights_end_with_2_and_are_marked(kind, in_process, tmp_path, capsys):
    file = tmp_path / "fold_1.zip"
    if WEIGHTS[kind] is None:
        pack(file)
        file.write_bytes(file.read_bytes()[:-30])
    else:
        file.write_bytes(WEIGHTS[kind])
    code = in_process("--weights", str(file), "--output-dir", str(tmp_path / "output"))
    captured = capsys.readouterr()
    assert code == 2 and "Traceback" not in captured.err
    assert len([line for line in captured.err.splitlines() if line.startswith("ERROR: ")]) == 1
    document = json.loads((tmp_path / "output" / "results.json").read_text())
    assert document["complete"] is False and document["statistics"] is None
    assert yaml.safe_load((tmp_path / "output" / "results.yaml").read_text())["results"][0]["value"] is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_output_that_turns_unwritable_is_told_in_one_line(number, in_process, tmp_path, capsys, monkeypatch):
    make = files.os.open

    def refuse(path, *rest, **named):
        if "results" in str(path):
            raise OSError(number, os.strerror(number))
        return make(path, *rest, **named)

    monkeypatch.setattr(files.os, "open", refuse)
    code = in_process("--weights", str(tmp_path), "--output-dir", str(tmp_path / "output"))
    captured = capsys.readouterr()
    assert code == 2 and "Traceback" not in captured.err
    assert all(line.startswith("ERROR: ") for line in captured.err.splitlines())


@pytest.mark.parametrize("folder", ["/proc/output", "/proc/self/output", "/sys/output", "/dev/null/output", "/dev/full/a/b"])
def test_places_nobody_can_write_to(folder, in_process, capsys):
    code = in_process("--weights", "random", "--output-dir", folder)
    captured = capsys.readouterr()
    assert code == 2 and len(captured.err.splitlines()) == 1 and "OUTPUT_DIR" in captured.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output(in_process, tmp_path, capsys):
    tmp_path.chmod(0o555)
    assert in_process("--weights", "random", "--output-dir", str(tmp_path)) == 2
    assert "OUTPUT_DIR" in capsys.readouterr().err


def make_case(root, name="A"):
    folder = root / "HGG" / name
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(name))
    for modality in MODALITIES:
        array = np.zeros((14, 15, 16), np.int16)
        array[2:-2, 2:-2, 2:-2] = generator.integers(100, 1000, (10, 11, 12))
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), folder / f"{name}_{modality}.nii.gz")
    return next(case for case in find_cases(root) if case.folder == folder)


def pack(path):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"a/fold_1/{unpack.CHECKPOINT}", np.random.default_rng(0).bytes(50_000))
        archive.writestr("a/plans.pkl", b"\x80\x02}.")


# A process that has imported everything and forks one child for each line it reads, `seconds` before it kills it.
FORKER = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
{work}
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


class Killer:
    """Runs `work` again and again in a process of its own, killed after the seconds given."""

    def __init__(self, work):
        command = [sys.executable, "-c", FORKER.format(root=str(ROOT), work=work)]
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    def __call__(self, seconds):
        print(seconds, file=self._process.stdin, flush=True)
        # nnU-Net prints a greeting of its own first.
        assert any(line == "dead\n" for line in self._process.stdout)

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(60) == 0


PREPROCESSING = """
from nnunet.preprocessing import cropping, preprocessing
from unet3d.brats.preprocessing import preprocess
import SimpleITK
SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
def work():
    preprocess({data!r}, {store!r}, None, 1, {shape!r})
"""


def test_kill_9_while_preprocessing_loses_no_finished_case(tmp_path):
    data, folder, names = tmp_path / "data", tmp_path / "store", [f"{letter}{letter}" for letter in "ABCDEFGHIJKL"]
    for name in names:
        make_case(data, name)
    chance, finished, moments = random.Random(0), {}, 0
    kill = Killer(PREPROCESSING.format(data=str(data), store=str(folder), shape=SHAPE))
    store = Store(folder, SHAPE)
    for _ in range(12):
        kill(chance.uniform(0.01, 0.15))
        there = {name: (folder / f"{name}.npz").read_bytes() for name in store.names()} if folder.is_dir() else {}
        assert finished.items() <= there.items(), "a finished case was lost or written again"
        for name in there:
            store.load(name)
        moments += len(there) > len(finished)
        finished = there
    kill.close()
    report = preprocessing.preprocess(data, folder, None, 1, SHAPE)
    assert sorted(report.done + report.skipped) == [f"HGG__{name}" for name in names] and not report.failed
    assert sorted(report.skipped) == sorted(finished)
    undisturbed = tmp_path / "undisturbed"
    preprocessing.preprocess(data, undisturbed, None, 1, SHAPE)
    for name in store.names():
        assert np.array_equal(store.load(name).array, Store(undisturbed, SHAPE).load(name).array)


RESULTS = """
import itertools
from pathlib import Path
from unet3d.planning.plan import plan
from unet3d.results import document
from unet3d.results.record import Record
from unet3d.results.timing import Sample
settings = plan([], {{"WEIGHTS": "random", "PLATFORM": "CPU", "PRECISION": "fp32"}}).settings
def work():
    folder = Path({folder!r}) / str(os.getpid())
    folder.mkdir()
    record = Record(settings, tflop_per_volume=1.0)
    for number in itertools.count(1):
        record.samples.append(Sample(float(number), 0.5))
        document.write(record, folder)
        if number == 400:
            record.finish()
"""


def test_kill_9_while_results_are_written_leaves_them_whole_and_marked(tmp_path):
    chance, calls = random.Random(1), []
    kill = Killer(RESULTS.format(folder=str(tmp_path)))
    for _ in range(15):
        kill(chance.uniform(0.01, 0.25))
        folder = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns, default=None)
        if folder is None or not (folder / "results.yaml").exists():
            continue
        document = json.loads((folder / "results.json").read_text())
        labels = yaml.safe_load((folder / "results.yaml").read_text())
        count = len(document["samples"]["latency_ms"])
        calls.append(count)
        assert document["complete"] is (count > 400) or count == 400
        assert document["statistics"]["calls"] == count
        assert labels["run"]["calls"] in (count, count - 1), "the two files are of one run, at most one step apart"
        assert labels["results"][1]["value"] == pytest.approx(500)
    kill.close()
    assert len(set(calls)) > 3, "killed at different moments"
