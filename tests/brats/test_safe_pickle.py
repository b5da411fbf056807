"""Pickles of nnU-Net are read, pickles with code in them are refused before the code runs."""

import codecs
import collections
import os
import pickle
import resource
import subprocess

import numpy as np
import pytest

from tests.robustness.hostile.stores import Call
from unet3d.brats.weights import safe_pickle
from unet3d.errors import UserError
from unet3d.network.plans import random_plans

PLAIN = {
    "plans": random_plans(),
    "numbers": [np.float32(1.5), np.float64(2.5), np.int64(-3), np.bool_(True), 4, 5.0, None, True, 1 + 2j],
    "arrays": (np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros((2, 0), np.float16), np.array(["T1", "T2"])),
    "order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">i2"),
    "objects": np.array([[1, 2], None, "x"], dtype=object),
    "ordered": collections.OrderedDict([(b"b", {1, 2}), ("a", frozenset("x"))]),
    "counts": collections.defaultdict(list, {"a": [1]}),
    "dtype": np.dtype("float32"),
    "type": np.float32,
    "slice": slice(1, 5),
    "bytes": bytearray(b"\xff\x00"),
}


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", PLAIN)
def test_plain_data_comes_back(key, protocol):
    data = pickle.dumps(PLAIN[key], protocol)
    assert same(safe_pickle.loads(data, "file"), pickle.loads(data))


@pytest.mark.parametrize("protocol", [2, 4])
def test_module_names_of_both_numpys(protocol):
    """numpy 1 wrote numpy.core, numpy 2 writes numpy._core: whichever runs here, both are read."""
    data = pickle.dumps([np.arange(3), np.float64(2)], protocol)
    assert b"numpy._core" in data or b"numpy.core" in data
    if protocol == 2:  # names stand there as plain lines, so one can be put for the other
        old = data.replace(b"numpy._core", b"numpy.core")
        assert same(safe_pickle.loads(old, "file"), [np.arange(3), np.float64(2)])
    assert same(safe_pickle.loads(data, "file"), [np.arange(3), np.float64(2)])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), f"{os.system.__module__}.system"),
        (subprocess.check_call, (["touch", "{}"],), "(subprocess|commands).check_call"),
        (eval, ("open('{}', 'w')",), "builtins.eval"),
        (getattr, ("x", "upper"), "builtins.getattr"),
        (pickle.loads, (b"N.",), "_?pickle.loads"),
        (np.load, ("{}",), "numpy.load"),
    ],
)
def test_malicious_pickle_is_refused_by_name(tmp_path, function, arguments, name, protocol):
    """The name is the one in the file; protocols 0 to 2 write some under the name of Python 2."""
    trace = tmp_path / "trace"
    arguments = [
        a.format(trace) if isinstance(a, str) else [i.format(trace) for i in a] if isinstance(a, list) else a for a in arguments
    ]
    file = tmp_path / "plans.pkl"
    file.write_bytes(pickle.dumps({"plans": [1, Call(function, *arguments)]}, protocol))
    with pytest.raises(UserError, match=f"asks for '{name}'") as caught:
        safe_pickle.load(file, 10_000)
    assert not trace.exists()
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0ccore.records\x94\x93.",  # attributes of an allowed module are no way out
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    ],
)
def test_hand_made_globals_are_refused(data):
    with pytest.raises(UserError, match="asks for"):
        safe_pickle.loads(data, "file")


def test_other_codecs_and_persistent_objects_are_refused():
    with pytest.raises(UserError, match="codec"):
        safe_pickle.loads(b"c_codecs\nencode\n(Vx\nVrot13\ntR.", "file")
    with pytest.raises(UserError, match="persistent"):
        safe_pickle.loads(b"Px\n.", "file")


def test_a_data_type_keeps_its_flags():
    """With those of an object's type, numpy would take the numbers for addresses when it frees the array."""
    content = pickle.dumps(np.arange(5), 2)
    plain = pickle.dumps(-1, 2)[2:-1] * 2 + b"K\x00t"  # size, alignment and flags, the end of the state
    assert content.count(plain) == 1
    forged = content.replace(plain, plain.replace(b"K\x00", b"K\x3f"))
    with pytest.raises(UserError, match="int64 with the state of another one"):
        safe_pickle.loads(forged, "plans.pkl")


def test_damaged_pickles_end_in_one_line():
    whole = pickle.dumps(PLAIN, 2)
    for length in range(0, len(whole) - 1, 97):
        with pytest.raises(UserError) as caught:
            safe_pickle.loads(whole[:length], "plans.pkl")
        assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        safe_pickle.load(tmp_path / "none.pkl", 100)
    with pytest.raises(UserError, match="is a folder"):
        safe_pickle.load(tmp_path, 100)
    (tmp_path / "three.pkl").write_bytes(pickle.dumps(3))
    assert safe_pickle.load(tmp_path / "three.pkl", 100) == 3
    with pytest.raises(UserError, match="at most 3 are allowed"):
        safe_pickle.load(tmp_path / "three.pkl", 3)


def doubled(kind):
    """Thirty containers, each of which holds the one before twice: small as a file, 2^30 values to walk through."""
    value = kind((1, 2))
    for _ in range(30):
        value = kind((value, value))
    return value


DEEP = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
BOMBS = {
    "a key of keys": b"\x80\x02}" + pickle.dumps(doubled(tuple), 2)[2:-1] + b"K\x01s.",
    "a million tuples in each other as a key": DEEP,
    "items of a set": Call(set, [doubled(tuple)]),
    "text of lists": Call(str, doubled(list)),
    "number of lists": Call(np.float64, doubled(list)),
    "dtype of lists": Call(np.dtype, doubled(list)),
    "zeros": Call(bytearray, 10**10),
    "zeros in numpy": Call(np.bytes_, 10**10),
    "array of no file's size": Call(np.ndarray, (10**5, 10**5)),
    "copies of one list": (one := list(range(10**5)), [Call(list, one) for _ in range(10**4)]),
    "copies of one text": (word := "a" * 10**6, [Call(codecs.encode, word, "latin1") for _ in range(10**4)]),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_cost_little(name):
    data = BOMBS[name] if isinstance(BOMBS[name], bytes) else pickle.dumps(BOMBS[name], 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="not a readable pickle"):
        safe_pickle.loads(data, "plans.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "KiB"


def test_objects_of_no_plain_data_are_refused():
    for data in (b"(i__builtin__\nlist\n.", b"(c__builtin__\nlist\no.", b"\x80\x02cnumpy\nndarray\n)\x81."):
        with pytest.raises(UserError, match="plain data is expected"):
            safe_pickle.loads(data, "plans.pkl")
