"""What a user meets with bad data and bad weights, through the command line; each bad case costs itself only."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.robustness.hostile import __main__ as judge
from tests.robustness.hostile import cases, stores, weights
from unet3d.brats.preprocessing import Store, default_store

ROOT = Path(__file__).parents[2]


def command(script, *flags):
    return subprocess.run([sys.executable, str(ROOT / script), *map(str, flags)], capture_output=True, text=True, timeout=300)


def test_bad_cases_cost_themselves_only(tmp_path):
    data = tmp_path / "data"
    good = [cases.make_case(data, name) for name in ("Good1", "Good2")]
    bad = {}
    for number, (kind, name) in enumerate([("t1ce", name) for name in (*BAD, *cases.PLACES)] + [("seg", name) for name in BAD]):
        folder = cases.make_case(data, f"Bad{number:03}")
        {**cases.NIFTI, **cases.PLACES}[name](cases.file_of(folder, kind))
        bad[f"HGG__{folder.name}"] = f"{kind} {name}"
    for name in cases.NAMES.values():
        cases.make_case(data, name)
    done = command("preprocess.py", "--dataset-dir", data)
    # A phase names itself at its start, and where it took long at its end.
    errors = [line for line in done.stderr.splitlines() if not line.startswith("Preprocessing")]
    assert done.returncode == 1
    # Otherwise nothing but one line for each bad case: no traceback, no library's word, nothing that a terminal obeys.
    assert all(line.startswith("ERROR: HGG__") and line.isprintable() and len(line) < 1000 for line in errors), done.stderr
    named = [line.split()[1].rstrip(":") for line in errors]
    assert set(bad) <= set(named), [bad[name] for name in bad.keys() - set(named)]
    kept = set(Store(default_store(data), cases.SHAPE).names())
    assert {f"HGG__{folder.name}" for folder in good} <= kept and not kept & set(bad)
    unreadable = {"K\\udcf6ln", "\\udced\\udca0\\udc80"}
    assert len(errors) == len(bad) + len(unreadable) and all(any(name in line for line in errors) for name in unreadable)


# A case with one of these can never be prepared; the rest of cases.NIFTI may be read as well as refused.
BAD = [
    "spacing 100 mm",
    "spacing 1 km",
    "spacing 0.1 um",
    "spacing nan",
    "spacing negative",
    "spacing zero",
    "micrometres",
    "sform nan",
    "extents 32767",
    "extents 1024",
    "axes two",
    "axes four",
    "type complex",
    "type unknown",
    "voxels in the header",
    "slope inf",
    "intercept inf",
    "slope of float32's end",
    "other byte order",
    "magic of a pair",
    "float64 1e300",
    "float32 inf",
    "uint64 largest",
    "int16 scaled away",
    "other shape",
    "cut in the voxels",
    "cut gzip",
    "gzip bomb",
    "a hundred thousand empty gzips",
    "not packed",
]

SOME = {
    "all of int8",
    "one of float8_e4m3fn",
    "one of uint16",
    "sparse",
    "quantised",
    "meta",
    "expanded to 2^50",
    "key none",
    "a million tuples",
    "doubled key by the memo",
    "call of doubled lists",
    "attributes of doubled tuples",
    "storage of a million tuples",
    "counted zeros",
    "item of a storage",
    "storages empty",
    "storages compressed",
    "legacy, a storage unlisted",
    "zip, lzma 0.3",
    "zip, size 2147483648",
    "base_num_features inf",
    "pool_op_kernel_sizes references to references",
    "5 modalities",
    "nine poolings",
    "archive: pipe",
    "archive: device",
    "checkpoint: link to pipe",
    "plans: device",
    "a folder as archive",
    "processes",
    "record: pipe",
    "an escape",
    "nobody's home",
}


@pytest.mark.parametrize("name", sorted(SOME))
def test_bad_weights_end_in_one_line(name, tmp_path):
    assert judge.verdict(judge.some_weights, weights.WEIGHTS[name]) is None


@pytest.mark.parametrize("name", stores.STORES)
def test_bad_stores_give_no_volume(name):
    assert judge.verdict(judge.a_store, stores.STORES[name]) is None


@pytest.mark.parametrize("name", stores.MLPERF)
def test_bad_stores_of_mlperf_give_no_volume(name):
    assert judge.verdict(judge.an_mlperf_store, stores.MLPERF[name]) is None


@pytest.mark.parametrize("name", ["archive: pipe", "all of int8", "base_num_features inf", "zip, lzma 0.3"])
def test_bad_weights_end_a_run_with_2(name, tmp_path):
    path = weights.WEIGHTS[name](tmp_path)
    flags = ("--weights", path, "--platform", "CPU", "--volume-shape", "64,64,64", "--output-dir", tmp_path / "out")
    done = command("predict.py", *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
