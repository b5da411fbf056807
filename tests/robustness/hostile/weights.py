"""Weights that are bad: archives, checkpoints, plans."""

import collections
import functools
import io
import json
import os
import pickle
import struct
import zipfile
from hashlib import sha256

import numpy as np
import torch

from tests.robustness.hostile.cases import INF, NAN, PLACES
from tests.robustness.hostile.stores import Call, doubled
from unet3d.brats import weights
from unet3d.brats.weights import OFFICIAL_URL

MODEL = "fold_1/model_final_checkpoint.model"
FIRST = "conv_blocks_context.0.blocks.0.conv.weight"


@functools.cache
def made():
    return weights.random_weights(base_features=2, max_features=4)


def saved(state_dict=None, content=None, legacy=False):
    buffer = io.BytesIO()
    state = {"state_dict": made().state_dict if state_dict is None else state_dict}
    torch.save(state if content is None else content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def members(checkpoint=None, plans=None):
    plans = made().plans if plans is None else plans
    return {
        f"model/{MODEL}": saved() if checkpoint is None else checkpoint,
        f"model/{MODEL}.pkl": pickle.dumps({"plans": plans}, 4),
        "model/plans.pkl": pickle.dumps(plans, 4),
    }


def write(folder, files, method=zipfile.ZIP_DEFLATED):
    path = folder / "fold_1.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def state(change, **options):
    """An archive whose state dict is changed."""

    def make(folder):
        values = collections.OrderedDict((key, value.clone()) for key, value in made().state_dict.items())
        changed = change(values)
        return write(folder, members(saved(values if changed is None else changed, **options)))

    return make


def first(change, **options):
    return state(lambda values: values.__setitem__(FIRST, change(values[FIRST])), **options)


def plans(change):
    """An archive whose plans are changed."""

    def make(folder):
        values = dict(made().plans)
        values["plans_per_stage"] = {0: dict(values["plans_per_stage"][0])}
        changed = change(values)
        return write(folder, members(plans=values if changed is None else changed))

    return make


def stage(**changes):
    return plans(lambda values: values["plans_per_stage"][0].update(changes))


def archive(change, method=zipfile.ZIP_DEFLATED):
    """The bytes of a good archive, changed."""

    def make(folder):
        path = write(folder, members(), method)
        path.write_bytes(change(bytearray(path.read_bytes())))
        return path

    return make


def flipped(place):
    def change(content):
        content[int(place * len(content))] ^= 0xFF
        return content

    return change


def directory(offset, form, value):
    """A field of each entry of the archive's directory."""

    def change(content):
        place = content.find(b"PK\x01\x02")
        while place >= 0:
            struct.pack_into(form, content, place + offset, value)
            place = content.find(b"PK\x01\x02", place + 4)
        return content

    return change


def unpacked(folder, change=lambda folder: None):
    for name, content in members().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    change(folder / "model")
    return folder


def claimed(folder):
    """A record that says that the archive came from Zenodo."""
    path = write(folder, members())
    record = {"url": OFFICIAL_URL, "sha256": sha256(path.read_bytes()).hexdigest()}
    path.with_name("fold_1.zip.json").write_text(json.dumps(record))
    return path


def claimed_folder(folder):
    unpacked(folder)
    files = {str(f.relative_to(folder)): sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}
    (folder / "origin.json").write_text(json.dumps({"url": OFFICIAL_URL, "files": files}))
    return folder


def nested(folder, name="origin.json", content="[" * 10**5):
    unpacked(folder)
    (folder / name).write_text(content)
    return folder


def storage(change):
    """The checkpoint's own zip, written anew with changed pieces."""

    def make(folder):
        with zipfile.ZipFile(io.BytesIO(saved())) as old:
            pieces = {name: old.read(name) for name in old.namelist()}
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
            for name, content in change(pieces).items():
                new.writestr(name, content)
        return write(folder, members(out.getvalue()))

    return make


def data_pickle(content):
    return storage(lambda pieces: {name: content if name.endswith("data.pkl") else piece for name, piece in pieces.items()})


def rebuilt(function, *arguments):
    return data_pickle(pickle.dumps({"state_dict": {FIRST: Call(function, *arguments)}}, 2))


# Pickled, and each holds the one before twice, by way of the memo.
TUPLES = b"K\x01" + b"".join(b"q%ch%c\x86" % (number, number) for number in range(40))
LISTS = b"](" * 40 + b"K\x01" + b"".join(b"q%ch%ce" % (number, number) for number in range(40))
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%bX\x03\x00\x00\x00cpuM\x60\x03tQ"


def compressed(checkpoint):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def unlisted():
    """In the format before 1.6, without the list of storages and the numbers."""
    content = saved(legacy=True)
    whole = io.BytesIO(content)
    for _ in range(3):
        pickle.load(whole)
    unpickler = pickle.Unpickler(whole)
    unpickler.persistent_load = lambda pid: torch.storage.TypedStorage(pid[4], dtype=torch.float32)
    unpickler.load()
    return content[: whole.tell()] + pickle.dumps([], 2)


TYPES = [
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.float64,
    torch.complex64,
    torch.complex128,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.bfloat16,
]
NUMBERS = {
    "inf": INF,
    "nan": NAN,
    "-inf": -INF,
    "text": "4",
    "list": [4],
    "none": None,
    "bool": True,
    "half": 4.5,
    "zero": 0,
    "minus": -1,
    "huge": 10**30,
    "numpy inf": np.float64(INF),
    "array": np.ones(3),
    "doubled": doubled(list),
    "complex": 4j,
    "bytes": b"4",
    "ten thousand": 10000,
    "a tuple": (4,),
}
KERNELS = {
    "empty": [],
    "none": None,
    "text": "222",
    "a number": 2,
    "inf": [[INF, 2, 2]] * 5,
    "nan": [[NAN, 2, 2]] * 5,
    "threes": [[3, 3, 3]] * 5,
    "pairs": [[2, 2]] * 5,
    "texts": [["2", "2", "2"]] * 5,
    "six": [[2, 2, 2]] * 6,
    "nine": [[2, 2, 2]] * 9,
    "bools": [[True] * 3] * 5,
    "zeros": [[0, 0, 0]] * 5,
    "halves": [[2.0, 2.0, 2.0]] * 5,
    "a hundred thousand references": [[2, 2, 2]] * 10**5,
    "references to references": [[[2] * 10**5] * 10**5] * 5,
    "doubled": doubled(list),
    "doubled inside": [doubled(list)] * 5,
    "a dict": {0: [2, 2, 2]},
    "a set": {1, 2},
    "array of none": np.array(2),
    "array of inf": np.full((5, 3), INF),
    "nested a thousandfold": functools.reduce(lambda inner, _: [inner], range(200), 2),
    "range": range(5),
    "flat": [2] * 5,
}
WEIGHTS = {
    **{
        f"all of {str(kind)[6:]}": state(lambda values, kind=kind: {k: v.to(kind) for k, v in values.items()}) for kind in TYPES
    },
    **{f"one of {str(kind)[6:]}": first(lambda v, kind=kind: v.to(kind)) for kind in TYPES},
    **{f"legacy, one of {str(kind)[6:]}": first(lambda v, kind=kind: v.to(kind), legacy=True) for kind in TYPES[:9]},
    **{
        f"{n} in one": first(lambda v, x=x: v.flatten().index_fill(0, torch.tensor([3]), x).view_as(v))
        for n, x in (("nan", NAN), ("inf", INF))
    },
    "float16 inf": first(lambda v: (v * 1e30).half()),
    "legacy nan": first(lambda v: v * NAN, legacy=True),
    "sparse": first(lambda v: v.to_sparse()),
    "sparse csr": first(lambda v: v.flatten(1).to_sparse_csr()),
    "quantised": first(lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
    "quantised per channel": first(
        lambda v: torch.quantize_per_channel(v, torch.ones(len(v)), torch.zeros(len(v)), 0, torch.qint8)
    ),
    "meta": first(lambda v: v.to("meta")),
    "expanded": first(lambda v: torch.ones(1).expand(v.shape)),
    "expanded to 2^50": first(lambda v: torch.ones(1).expand(2**25, 2**25)),
    "nested tensor": first(lambda v: torch.nested.nested_tensor([v[0], v[1]])),
    "overlapping": first(lambda v: torch.ones(v.numel()).as_strided(v.shape, (1,) * v.ndim)),
    "no numbers": first(lambda v: torch.empty(0)),
    "a scalar": first(lambda v: torch.tensor(1.0)),
    "conjugated": first(lambda v: torch.conj(v.to(torch.complex64))),
    "other shape": first(lambda v: v[:1]),
    "an array": first(lambda v: v.numpy()),
    "a number": first(lambda v: 1.0),
    "none": first(lambda v: None),
    "text": first(lambda v: "x\x1b[31m"),
    "a storage": first(lambda v: v.untyped_storage()),
    "missing": state(lambda values: values.popitem() and None),
    "unknown": state(lambda values: values.__setitem__("x\n\x1b[31m" * 1000, torch.ones(1))),
    "hundred thousand unknown": state(lambda values: values.update({str(n): torch.ones(1) for n in range(2000)})),
    "key 1": state(lambda values: values.__setitem__(1, torch.ones(1))),
    "key none": state(lambda values: values.__setitem__(None, torch.ones(1))),
    "key bytes": state(lambda values: values.__setitem__(b"a", torch.ones(1))),
    "key tuple": state(lambda values: values.__setitem__(("a", "b"), torch.ones(1))),
    "keys twice": state(lambda values: values.update({f"module.{FIRST}": values[FIRST]})),
    "a list": state(lambda values: list(values.values())),
    "empty": state(lambda values: {}),
    "no state_dict": lambda folder: write(folder, members(saved(content={"a": 1}))),
    "a tensor alone": lambda folder: write(folder, members(saved(content=torch.ones(3)))),
    "a list alone": lambda folder: write(folder, members(saved(content=[1]))),
    "a network": lambda folder: write(folder, members(saved(content={"state_dict": torch.nn.Linear(1, 1)}))),
    "nested a thousandfold": lambda folder: write(
        folder, members(saved(content={"state_dict": functools.reduce(lambda inner, _: [inner], range(200), 1)}))
    ),
    "doubled": data_pickle(pickle.dumps({"state_dict": doubled(list)}, 2)),
    "doubled keys": data_pickle(b"\x80\x02}" + pickle.dumps(doubled(tuple), 2)[2:-1] + b"K\x01s."),
    "a million tuples": data_pickle(b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\x01s."),
    "a million lists": data_pickle(b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."),
    "doubled key by the memo": data_pickle(b"\x80\x02}" + TUPLES + b"K\x01s."),
    "call of doubled tuples": data_pickle(b"\x80\x02" + TUPLES + b")R."),
    "call of doubled lists": data_pickle(b"\x80\x02" + LISTS + b")R."),
    "tensor of doubled lists": data_pickle(b"\x80\x02ctorch\nTensor\n" + LISTS + b"\x85R."),
    "attributes of doubled tuples": data_pickle(b"\x80\x02ccollections\nOrderedDict\n)R](" + TUPLES + b"K\x01\x86eb."),
    "storage of a million tuples": data_pickle(b"\x80\x02" + STORAGE % (b")" + b"\x85" * 10**6) + b"."),
    "counted zeros": rebuilt(collections.Counter, Call(bytearray, 10**10)),
    "item of a storage": data_pickle(b"\x80\x02" + STORAGE % b"X\x01\x00\x00\x000" + b"K\x00K\x01s."),
    "storages empty": storage(lambda p: {n: b"" if "/data/" in n else c for n, c in p.items()}),
    "storages compressed": lambda folder: write(folder, members(compressed(saved()))),
    "legacy, a storage unlisted": lambda folder: write(folder, members(unlisted())),
    "sparse without tensors": rebuilt(torch._utils._rebuild_sparse_tensor, torch.strided, ()),
    "empty pickle": data_pickle(b""),
    "rubbish pickle": data_pickle(b"\x80\x02\xff\xff"),
    "pickle asks for system": rebuilt(os.system, "true"),
    "no storages": storage(lambda p: {n: c for n, c in p.items() if "/data/" not in n}),
    "storages cut": storage(lambda p: {n: c[:-1] if "/data/" in n else c for n, c in p.items()}),
    "storages long": storage(lambda p: {n: c + b"\0" * 4 if "/data/" in n else c for n, c in p.items()}),
    "big byte order": storage(lambda p: {**p, next(n for n in p if n.endswith("byteorder")): b"big"}),
    "two pickles": storage(lambda p: {**p, "other/data.pkl": b"\x80\x02N."}),
    "checkpoint of text": lambda folder: write(folder, members(b"hello")),
    "checkpoint empty": lambda folder: write(folder, members(b"\0")),
    "checkpoint of zeros": lambda folder: write(folder, members(bytes(2**20))),
    "checkpoint a plain pickle": lambda folder: write(folder, members(pickle.dumps({"state_dict": {}}))),
    "legacy cut": lambda folder: write(folder, members(saved(legacy=True)[:-100])),
    "legacy without storages": lambda folder: write(folder, members(saved(legacy=True)[:2000])),
    **{
        f"zip, {method} {place}": archive(flipped(place), kind)
        for method, kind in (("stored", 0), ("deflate", 8), ("bzip2", 12), ("lzma", 14))
        for place in (0.0, 0.01, 0.05, 0.3, 0.6, 0.9, 0.99)
    },
    **{
        f"zip, {method} cut at {share}": archive(lambda c, share=share: c[: int(share * len(c))], kind)
        for method, kind in (("deflate", 8), ("lzma", 14))
        for share in (0, 0.1, 0.5, 0.99)
    },
    **{
        f"zip, method {number}": archive(directory(10, "<H", number)) for number in (1, 6, 9, 12, 14, 93, 95, 96, 98, 99, 65535)
    },
    **{
        f"zip, size {size}": archive(directory(24, "<I", size))
        for size in (0, 1, 2**26 + 1, 2**30 + 1, 2**31, 2**32 - 2, 2**32 - 1)
    },
    **{f"zip, packed size {size}": archive(directory(20, "<I", size)) for size in (0, 1, 2**31, 2**32 - 2, 2**32 - 1)},
    **{f"zip, flags {flags}": archive(directory(8, "<H", flags)) for flags in (1, 0x20, 0x40, 0x800, 0x2000, 0xFFFF)},
    **{f"zip, place {place}": archive(directory(42, "<I", place)) for place in (1, 2**31, 2**32 - 2, 2**32 - 1)},
    "zip, date": archive(directory(12, "<I", 0xFFFFFFFF)),
    "zip, names of zeros": archive(lambda c: bytes(c).replace(b"plans.pkl", b"plans\0pkl")),
    "zip in zip": lambda folder: write(folder, {"fold_1.zip": write(folder, members()).read_bytes()}),
    "zip of zeros": lambda folder: write(folder, {**members(), f"model/{MODEL}": bytes(2**28)}),
    "zip, two models": lambda folder: write(folder, {**members(), f"other/{MODEL}": b"1"}),
    "zip, plans too large": lambda folder: write(folder, {**members(), "model/plans.pkl": bytes(2**27)}),
    **{
        f"{key} {name}": plans(lambda values, key=key, number=number: values.__setitem__(key, number))
        for key in ("num_modalities", "num_classes", "base_num_features", "conv_per_stage", "max_num_features")
        for name, number in NUMBERS.items()
    },
    **{f"pool_op_kernel_sizes {name}": stage(pool_op_kernel_sizes=value) for name, value in KERNELS.items()},
    **{f"conv_kernel_sizes {name}": stage(conv_kernel_sizes=value) for name, value in KERNELS.items()},
    "nine poolings": stage(pool_op_kernel_sizes=[[2, 2, 2]] * 9, conv_kernel_sizes=[[3, 3, 3]] * 10),
    "seven poolings": stage(pool_op_kernel_sizes=[[2, 2, 2]] * 7, conv_kernel_sizes=[[3, 3, 3]] * 8),
    **{f"{n} modalities": plans(lambda values, n=n: values.__setitem__("num_modalities", n)) for n in (1, 3, 5, 64)},
    **{f"{n} classes": plans(lambda values, n=n: values.__setitem__("num_classes", n)) for n in (1, 2, 4, 255)},
    **{
        f"plans_per_stage {name}": plans(lambda values, value=value: values.__setitem__("plans_per_stage", value))
        for name, value in {
            "empty": {},
            "list": [],
            "none": None,
            "text": "x",
            "keys": {"a": 1, 2: 3},
            "inf": {INF: {}},
            "nan": {NAN: {}},
            "of none": {0: None},
            "of lists": {0: []},
            "many": {key: {} for key in range(10**5)},
            "doubled": {0: doubled(list)},
            "tuple": {(1, 2): {}},
        }.items()
    },
    **{
        f"plans {name}": lambda folder, value=value: write(folder, members(plans=value))
        for name, value in {
            "none": None,
            "list": [1],
            "text": "x\x1b[31m",
            "number": 1,
            "empty": {},
            "inf": INF,
            "doubled": doubled(list),
            "range": {"plans_per_stage": range(10**5)},
            "default": collections.defaultdict(list),
        }.items()
        if value is not None
    },
    **{
        f"plans pickle {name}": lambda folder, value=value: write(folder, {**members(), "model/plans.pkl": value})
        for name, value in {
            "empty": b"",
            "rubbish": b"\xff" * 100,
            "bytes": b"B\xff\xff\xff\x7f",
            "long": b"\x8b\xff\xff\xff\x7f",
            "memo": b"Nr\xff\xff\xff\xff.",
            "frames": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
            "bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00N.",
            "extension": b"\x82\x01.",
            "global": b"cos\nsystem\n.",
            "asks with an escape": b"cos\nsys\x1b[31m\n.",
        }.items()
    },
    "claimed": claimed,
    "claimed folder": claimed_folder,
    "record nested": nested,
    "record of rubbish": lambda folder: nested(folder, content="\0"),
    "record a list": lambda folder: nested(folder, content="[]"),
    "record's files a list": lambda folder: nested(folder, content='{"files": [1]}'),
    "a folder as archive": lambda folder: (folder / "fold_1.zip").mkdir() or folder / "fold_1.zip",
    "a folder as checkpoint": lambda folder: unpacked(folder, lambda f: ((f / MODEL).unlink(), (f / MODEL).mkdir())),
    "an empty folder": lambda folder: folder,
    "the root": lambda folder: "/",
    "processes": lambda folder: "/proc",
    "devices": lambda folder: "/dev",
    "nobody's home": lambda folder: "~nobody-of-this-name/x",
    "a name with zero": lambda folder: "a\0b",
    "a long name": lambda folder: "a" * 5000,
    "half of a pair": lambda folder: "\ud800",
    "an escape": lambda folder: "x\x1b[31m\nERROR: y",
    "below a file": lambda folder: write(folder, members()) / "x",
    **{
        f"archive: {name}": lambda folder, make=make: (make(path := write(folder, members())) and None) or path
        for name, make in PLACES.items()
    },
    **{
        f"{name}: {what}": lambda folder, make=make, file=file: unpacked(folder, lambda f: make(f / file))
        for what, make in PLACES.items()
        for name, file in (("checkpoint", MODEL), ("plans", "plans.pkl"), ("info", f"{MODEL}.pkl"))
    },
    **{
        f"record: {name}": lambda folder, make=make: (make(claimed_folder(folder) / "origin.json") and None) or folder
        for name, make in PLACES.items()
    },
}
