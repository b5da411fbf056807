"""Files that are damaged or meant to harm: read right or refused in one line, and nothing of theirs is run or written."""

import gzip
import io
import os
import pickle
import random
import shutil
import signal
import stat
import struct
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness.hostile import cases
from tests.robustness.hostile.stores import Call
from unet3d import cli
from unet3d.brats import preprocessing, segmentations, weights, workers
from unet3d.brats.dataset import MODALITIES, find_cases
from unet3d.brats.preprocessing import Store
from unet3d.brats.preprocessing.case import prepare
from unet3d.brats.weights import safe_pickle, unpack
from unet3d.errors import UserError

FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return cases.make_case(tmp_path_factory.mktemp("data"), "A")


@pytest.fixture(scope="module")
def good(pristine):
    return prepare(find_cases(pristine.parents[1])[0], cases.SHAPE).array


@pytest.fixture
def case(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "HGG" / "A", dirs_exist_ok=True)
    return find_cases(tmp_path)[0]


def refused(work):
    """What `work` gives, or None where it refuses in one line of what a user can read."""
    try:
        return work()
    except UserError as error:
        text = str(error)
        assert text.strip() and "\n" not in text and "Traceback" not in text and len(text) < 1000
        return None


def sound(volume, good):
    """A volume that was let through is a volume: finite and of the case's four modalities."""
    if volume is not None:
        assert volume.array.ndim == 4 and len(volume.array) == len(good)
        assert volume.array.dtype == np.float32 and np.isfinite(volume.array).all()
        assert all(n <= most for n, most in zip(volume.array.shape[1:], cases.SHAPE, strict=True))


@settings(max_examples=60, **FUZZ)
@given(
    kind=st.sampled_from([*MODALITIES, "seg"]),
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_nifti_headers_with_random_bytes(case, good, kind, changes):
    file = case.folder / f"A_{kind}.nii.gz"
    before = file.read_bytes()
    content = bytearray(gzip.decompress(before))
    for place, value in changes:
        content[place] = value
    file.write_bytes(gzip.compress(bytes(content), 1))
    try:
        sound(refused(lambda: prepare(case, cases.SHAPE)), good)
    finally:
        file.write_bytes(before)


HEADERS = {  # offset, format, value: fields of the NIfTI-1 header
    "size of header": (0, "<i", 5),
    "no dimensions": (40, "<h", 0),
    "negative dimensions": (40, "<h", -3),
    "four dimensions": (40, "<h4h", (4, 14, 15, 16, 2)),
    "two dimensions": (40, "<h", 2),
    "eight dimensions": (40, "<h", 8),
    "huge dimension": (42, "<h", 32767),
    "huge in all": (42, "<3h", (32767, 32767, 32767)),
    "zero dimension": (44, "<h", 0),
    "negative dimension": (46, "<h", -16),
    "unknown type": (70, "<h", 999),
    "complex": (70, "<hh", (32, 64)),
    "colours": (70, "<hh", (128, 24)),
    "double": (70, "<hh", (64, 64)),
    "no spacing": (80, "<3f", (0, 0, 0)),
    "negative spacing": (80, "<f", -1),
    "spacing not a number": (80, "<f", float("nan")),
    "spacing infinite": (84, "<f", float("inf")),
    "tiny spacing": (80, "<3f", (1e-9, 1e-9, 1e-9)),
    "data before the header": (108, "<f", -1e9),
    "data after the end": (108, "<f", 1e9),
    "data nowhere": (108, "<f", float("nan")),
    "slope not a number": (112, "<f", float("nan")),
    "slope infinite": (112, "<f", float("inf")),
    "slope zero": (112, "<f", 0),
    "offset infinite": (116, "<f", float("inf")),
    "no matrix": (252, "<hh", (0, 0)),
    "unknown matrix": (252, "<hh", (99, 99)),
    "matrix of zeros": (280, "<12f", (0,) * 12),
    "matrix not numbers": (280, "<12f", (float("nan"),) * 12),
    "no magic": (344, "<4s", b"abcd"),
    "pair of files": (344, "<4s", b"ni1\0"),
    "magic of NIfTI-2": (344, "<4s", b"n+2\0"),
    "other byte order": (0, ">i", 348),
}


@pytest.mark.parametrize("kind", ["t1ce", "seg"])
@pytest.mark.parametrize("field", HEADERS)
def test_nifti_headers_with_one_wrong_field(case, good, field, kind):
    offset, form, value = HEADERS[field]
    file = case.folder / f"A_{kind}.nii.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into(form, content, offset, *(value if isinstance(value, tuple) else (value,)))
    file.write_bytes(gzip.compress(bytes(content), 1))
    sound(refused(lambda: prepare(case, cases.SHAPE)), good)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", [*MODALITIES, "seg"])
def test_gzip_cut_anywhere_is_refused_by_its_name(case, kind, share):
    file = case.folder / f"A_{kind}.nii.gz"
    content = file.read_bytes()
    file.write_bytes(content[: min(int(share * len(content)), len(content) - 1)])
    with pytest.raises(UserError, match=rf"^{kind} is not a (whole gzip|NIfTI) file"):
        prepare(case, cases.SHAPE)


@settings(max_examples=25, **FUZZ)
@given(place=st.floats(0, 1), value=st.integers(1, 255))
def test_flipped_bits_in_gzip_are_noticed(case, good, place, value):
    file = case.images[2]
    before = file.read_bytes()
    content = bytearray(before)
    content[int(place * (len(content) - 1))] ^= value
    file.write_bytes(content)
    try:
        volume = refused(lambda: prepare(case, cases.SHAPE))
    finally:
        file.write_bytes(before)
    # A byte of gzip's own header (name, time, system) carries no voxel; every other is under its checksum.
    assert volume is None or np.array_equal(volume.array, good)


@pytest.mark.parametrize(
    "shape", [(13, 15, 16), (14, 15, 17), (14, 15), (14, 15, 16, 1), (14, 15, 16, 2), (1, 1, 1), (14, 15, 1)]
)
@pytest.mark.parametrize("kind", ["t2", "seg"])
def test_wrong_shapes_are_refused(case, kind, shape):
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), np.diag([-1.0, -1, 1, 1])), case.folder / f"A_{kind}.nii.gz")
    volume = refused(lambda: prepare(case, cases.SHAPE))
    # A fourth axis of one is no other shape.
    assert volume is None or shape == (14, 15, 16, 1)


def test_a_run_over_bad_cases_names_each_and_ends_with_1(pristine, tmp_path, capsys, monkeypatch):
    data, generator = tmp_path / "data", random.Random(0)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for number, field in enumerate(HEADERS):
        folder = data / "HGG" / f"B{number:02}"
        folder.mkdir(parents=True)
        for source in pristine.iterdir():
            shutil.copy(source, folder / source.name.replace("A_", f"B{number:02}_"))
        offset, form, value = HEADERS[field]
        file = folder / f"B{number:02}_{generator.choice(MODALITIES)}.nii.gz"
        content = bytearray(gzip.decompress(file.read_bytes()))
        struct.pack_into(form, content, offset, *(value if isinstance(value, tuple) else (value,)))
        file.write_bytes(gzip.compress(bytes(content), 1))
    cases.make_case(data, "Good")
    monkeypatch.setattr(workers, "default_processes", lambda items: workers.HERE)
    code = cli.preprocess(["--dataset-dir", str(data)])
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    captured = capsys.readouterr()
    store = Store(preprocessing.default_store(data))
    assert code == 1 and "HGG__Good" in store.names()
    errors = [line for line in captured.err.splitlines() if line.startswith("ERROR: ")]
    assert "Traceback" not in captured.err and "unexpected" not in captured.err
    named = {line.split()[1].rstrip(":") for line in errors}
    assert len(named) == len(errors) and named | set(store.names()) == {case.name for case in find_cases(data)}
    assert named.isdisjoint(store.names())


@settings(max_examples=40, **FUZZ)
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=4))
def test_labels_are_brats_or_refused(tmp_path, values):
    labels = np.resize(np.array(values, np.uint8), (4, 4, 4))
    file = tmp_path / "seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), file)
    read = refused(lambda: segmentations.read(file))
    assert (read is not None) == (set(values[:64]) <= {0, 1, 2, 4})


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small but complete model archive, as nnU-Net writes one."""
    import torch

    made = weights.random_weights(base_features=2, max_features=4)
    folder = tmp_path_factory.mktemp("model") / "model"
    (folder / "fold_1").mkdir(parents=True)
    torch.save({"state_dict": made.state_dict}, folder / "fold_1" / unpack.CHECKPOINT)
    for name in ("plans.pkl", f"fold_1/{unpack.CHECKPOINT}.pkl"):
        (folder / name).write_bytes(pickle.dumps(made.plans if name == "plans.pkl" else {"plans": made.plans}))
    file = folder.parent / "fold_1.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(folder.parent))
    weights.load(file)
    return file


@settings(max_examples=40, **FUZZ)
@given(data=st.data())
def test_damaged_archives_give_the_same_weights_or_none(archive, tmp_path, data):
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content) - 1)))
    file = tmp_path / "fold_1.zip"
    file.write_bytes(content[:cut])
    loaded = refused(lambda: weights.load(file))
    if loaded is not None:
        expected = weights.load(archive)
        assert loaded.kind == "custom" and loaded.state_dict.keys() == expected.state_dict.keys()
        assert all((loaded.state_dict[key] == value).all() for key, value in expected.state_dict.items())


def plain(name, mode=stat.S_IFREG | 0o644):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


HOSTILE_ZIPS = {
    "parent": [(plain("../evil"), b"x")],
    "deep parent": [(plain("a/../../evil"), b"x")],
    "absolute": [(plain("/tmp/evil"), b"x")],
    "drive": [(plain("C:/evil"), b"x")],
    "backslash": [(plain("..\\evil"), b"x")],
    "link": [(plain("evil", stat.S_IFLNK | 0o777), b"/etc/passwd")],
    "device": [(plain("evil", stat.S_IFCHR | 0o666), b"")],
    "pipe": [(plain("evil", stat.S_IFIFO | 0o666), b"")],
    "twice": [(plain("a/b"), b"1"), (plain("a/b"), b"2")],
    "file as folder": [(plain("a"), b"1"), (plain("a/b"), b"2")],
    "long name": [(plain("a" * 300), b"x")],
    "deep": [(plain("d/" * 3000 + "x"), b"x")],
    "many": [(plain(str(number)), b"") for number in range(1001)],
    "empty name": [(plain("/"), b"")],
    "control characters": [(plain("a\nERROR: b\x1b[31m"), b"x")],
    "none": [],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_hostile_archives_write_nothing_outside(name, tmp_path):
    file, inside = tmp_path / "fold_1.zip", tmp_path / "place" / "weights"
    inside.parent.mkdir()
    with zipfile.ZipFile(file, "w") as packed:
        for member, content in HOSTILE_ZIPS[name]:
            packed.writestr(member, content)
    assert refused(lambda: weights.load(file)) is None
    refused(lambda: unpack.unpack(file, inside))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold_1.zip", "place"]
    assert {path.name for path in inside.parent.iterdir()} <= {"weights"}, "no half of an archive stays"
    assert not any(path.is_symlink() for path in inside.parent.rglob("*"))


@pytest.mark.parametrize("declared", [2**31, 2**32 - 2])
def test_zip_bombs_are_refused_before_they_unpack(archive, tmp_path, declared):
    """The sizes in an archive's directory may lie either way."""
    content = bytearray(archive.read_bytes())
    for place in [at for at in range(len(content) - 4) if content[at : at + 4] == b"PK\x01\x02"]:
        struct.pack_into("<I", content, place + 24, declared)
    file = tmp_path / "bomb.zip"
    file.write_bytes(content)
    assert refused(lambda: weights.load(file)) is None
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("fold_1/model_final_checkpoint.model", bytes(2**24))
    content = bytearray(zeros.getvalue())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 10)  # says 10 bytes, holds 16 MiB
    file.write_bytes(content)
    assert refused(lambda: weights.load(file)) is None


BOMBS = {
    "range in a list": Call(list, range(10**10)),
    "bytes": Call(bytearray, 10**12),
    "array": Call(np.ndarray, (10**6, 10**6)),
    "set": Call(set, range(10**10)),
    "integer": Call(int, "9" * 10**6),
    "text": Call(str, range(3)),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_would_fill_the_memory(name, protocol):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: safe_pickle.loads(pickle.dumps(BOMBS[name], protocol), "plans.pkl"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KiB"


WHOLE = pickle.dumps({"plans": {"a": [1, 2.5, None, b"x"], "b": np.arange(5), "c": (np.float32(1), "text")}}, 2)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_and_mutated_pickles_run_nothing(data):
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=200))
    else:
        content = bytearray(WHOLE)
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    before = set(os.listdir("/tmp"))
    refused(lambda: safe_pickle.loads(bytes(content), "plans.pkl"))
    assert not any("evil" in name for name in set(os.listdir("/tmp")) - before)


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=300))
def test_stores_of_random_bytes_give_no_volume(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    (folder / "HGG__A.npz").write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        Store(folder).load("HGG__A")


def test_a_store_file_with_a_bomb_inside_is_damaged(tmp_path):
    """An .npy header may claim any shape."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 60000, 60000, 60000), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + b"\0" * 64
    with zipfile.ZipFile(tmp_path / "HGG__A.npz", "w") as packed:
        packed.writestr("array.npy", array)
        packed.writestr("about.npy", array)
    with pytest.raises(UserError, match="is damaged"):
        Store(tmp_path).load("HGG__A")


@pytest.mark.parametrize(
    "words", [[b"", b"text", b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02.", b"\x00" * 1000]]
)
def test_weights_that_are_no_archive(words, tmp_path):
    for number, content in enumerate(words):
        file = tmp_path / f"{number}.zip"
        file.write_bytes(content)
        assert refused(lambda path=file: weights.load(path)) is None
    assert refused(lambda: weights.load(tmp_path)) is None
    assert refused(lambda: weights.load(Path("/dev/null"))) is None
