"""Preprocessed cases that are bad: of this project's store, and of MLPerf's preprocessing."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

from tests.robustness.hostile.cases import INF, NAN, PLACES, SHAPE


def properties(**changes):
    values = {
        "original_size_of_raw_data": [16, 15, 14],
        "original_spacing": [1.0, 1.0, 1.0],
        "itk_origin": [0.0, 0.0, 0.0],
        "itk_spacing": [1.0, 1.0, 1.0],
        "itk_direction": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0],
        "crop_bbox": [[2, 14], [2, 13], [2, 12]],
        "size_after_cropping": [12, 11, 10],
        "size_after_resampling": [12, 11, 10],
        "spacing_after_resampling": [1.0, 1.0, 1.0],
    }
    return {**values, **changes}


def volume():
    array = np.random.default_rng(0).standard_normal((4, 12, 11, 10)).astype(np.float32)
    return array


def npz(array=None, about=None, packed=False, **changes):
    def write(file):
        text = json.dumps({"version": 1, "sources": {}, "properties": properties(**changes)}) if about is None else about
        (np.savez_compressed if packed else np.savez)(
            file, array=volume() if array is None else array(volume()), about=np.array(text)
        )

    return write


def with_value(value):
    def change(array):
        array[1, 3, 3, 3] = value
        return array

    return change


def header(shape, descr="<f4", name="array.npy", method=zipfile.ZIP_STORED, size=64):
    """An .npz whose array announces a shape."""

    def write(file):
        text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        npz()(file)
        with zipfile.ZipFile(file) as old:
            kept = {entry: old.read(entry) for entry in old.namelist()}
        kept[name] = b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n" + bytes(size)
        with zipfile.ZipFile(file, "w", method) as new:
            for entry, content in kept.items():
                new.writestr(entry, content)

    return write


BAD_NUMBERS = {
    "nan": NAN,
    "inf": INF,
    "1e300": 1e300,
    "-1": -1,
    "0": 0,
    "text": "a",
    "none": None,
    "list": [1],
    "huge": 10**30,
    "bool": True,
}
STORES = {
    **{f"voxel {name}": npz(with_value(value)) for name, value in (("nan", NAN), ("inf", INF), ("1e30", 1e30), ("1e9", 1e9))},
    "modality zero": npz(lambda a: a * np.array([1, 0, 1, 1], np.float32)[:, None, None, None]),
    "modality constant": npz(lambda a: np.where(np.arange(4)[:, None, None, None] == 2, np.float32(0.01), a)),
    "float64": npz(lambda a: a.astype(np.float64)),
    "float16": npz(lambda a: a.astype(np.float16)),
    "other byte order": npz(lambda a: a.astype(">f4")),
    "int": npz(lambda a: a.astype(np.int32)),
    "complex": npz(lambda a: a.astype(np.complex64)),
    "three modalities": npz(lambda a: a[:3]),
    "five modalities": npz(lambda a: np.concatenate((a, a[:1]))),
    "three axes": npz(lambda a: a[:, :, :, 0]),
    "no voxels": npz(lambda a: a[:, :0]),
    "other size": npz(lambda a: a[:, 1:]),
    "too large": npz(lambda a: np.pad(a, ((0, 0), (0, 30), (0, 0), (0, 0)))),
    "announces a terabyte": header((4, 60000, 60000, 60000)),
    "announces 2^80": header((4, 2**30, 2**30, 2**30)),
    "announces minus one": header((4, -1, 11, 10)),
    "holds more": header((4, 12, 11, 10), size=10**6),
    "packed bomb": header((4, 12, 11, 10), method=zipfile.ZIP_DEFLATED, size=2**30),
    "about announces a gigabyte": header((), "<U268435456", "about.npy"),
    "header of another language": header("__import__('os').system('true')"),
    "objects": header((1,), "|O"),
    "about nan": npz(about="NaN"),
    "about a list": npz(about="[]"),
    "about nested": npz(about="[" * 10**5),
    "about no JSON": npz(about="{"),
    "about without properties": npz(about="{}"),
    "about long": npz(about=" " * 10**7 + "{}"),
    "version text": npz(about='{"version": "1"}'),
    **{
        f"{key} {name}": npz(**{key: [value] * 3})
        for key in (
            "original_size_of_raw_data",
            "itk_spacing",
            "size_after_resampling",
            "size_after_cropping",
            "original_spacing",
            "spacing_after_resampling",
            "itk_origin",
        )
        for name, value in BAD_NUMBERS.items()
        if key != "itk_origin" or name not in ("-1", "0")
    },
    **{
        f"crop_bbox {name}": npz(crop_bbox=value)
        for name, value in {
            "nan": [[NAN, 14], [2, 13], [2, 12]],
            "turned": [[14, 2], [13, 2], [12, 2]],
            "outside": [[20, 32], [2, 13], [2, 12]],
            "negative": [[-14, -2], [2, 13], [2, 12]],
            "flat": [2, 14, 2, 13, 2, 12],
            "empty": [],
            "text": "none",
            "other size": [[2, 13], [2, 13], [2, 12]],
            "a dict": {},
            "nested": [[[2]], [[2]], [[2]]],
        }.items()
    },
    **{
        f"itk_direction {name}": npz(itk_direction=value)
        for name, value in {
            "nan": [NAN] * 9,
            "zeros": [0] * 9,
            "eight": [1] * 8,
            "sheared": [1, 0.5, 0, 0, 1, 0, 0, 0, 1],
            "text": "x",
        }.items()
    },
    "size of 10^9": npz(original_size_of_raw_data=[10**9] * 3),
    "size of 1024": npz(original_size_of_raw_data=[1024] * 3),
    "spacing of 1 km": npz(original_spacing=[1e6] * 3, itk_spacing=[1e6] * 3),
    "spacings that differ": npz(itk_spacing=[2.0, 2.0, 2.0]),
    "empty": lambda f: f.write_bytes(b""),
    "text": lambda f: f.write_bytes(b"hello"),
    "cut": lambda f: (npz()(f), f.write_bytes(f.read_bytes()[:-30])),
    "flipped": lambda f: (npz()(f), f.write_bytes(f.read_bytes()[:900] + b"\xff" + f.read_bytes()[901:])),
    "an .npy": lambda f: f.write_bytes((np.save(b := io.BytesIO(), volume()), b.getvalue())[1]),
    "empty zip": lambda f: f.write_bytes(b"PK\5\6" + bytes(18)),
    **{f"place: {name}": (lambda f, make=make: (npz()(f), make(f))) for name, make in PLACES.items()},
}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def doubled(kind, levels=40):
    value = kind((1, 2))
    for _ in range(levels):
        value = kind((value, value))
    return value


def mlperf(array=None, content=None, **changes):
    def write(folder):
        folder.mkdir(exist_ok=True)
        padded = np.zeros((4, *SHAPE), np.float32)
        padded[:, 10:22, 10:21, 11:21] = volume()
        padded = padded if array is None else array(padded)
        (folder / "preprocessed_files.pkl").write_bytes(pickle.dumps(["HGG__A"]))
        (folder / "HGG__A.pkl").write_bytes(pickle.dumps([padded, properties(**changes)] if content is None else content, 4))

    return write


MLPERF = {
    "voxel nan": mlperf(with_value(NAN)),
    "voxel inf": mlperf(with_value(INF)),
    "voxel 1e300": mlperf(lambda a: with_value(1e300)(a.astype(np.float64))),
    "float16 inf": mlperf(lambda a: with_value(INF)(a.astype(np.float16))),
    "zero": mlperf(np.zeros_like),
    "ints": mlperf(lambda a: a.astype(int)),
    "other shape": mlperf(lambda a: a[:, 1:]),
    "nothing": mlperf(content=None, crop_bbox=None),
    "one entry": mlperf(content=[1]),
    "a dict": mlperf(content={"a": 1}),
    "doubled lists": mlperf(crop_bbox=doubled(list)),
    "doubled properties": mlperf(content=[doubled(list), doubled(list)]),
    "call of text": mlperf(content=[Call(str, doubled(list)), {}]),
    "zeros": mlperf(content=[Call(bytearray, 10**10), {}]),
    "array of 2^40": mlperf(content=[Call(np.ndarray, (2**20, 2**20)), {}]),
    "list nan": lambda f: (mlperf()(f), (f / "preprocessed_files.pkl").write_bytes(pickle.dumps([NAN]))),
    "list of paths": lambda f: (
        mlperf()(f),
        (f / "preprocessed_files.pkl").write_bytes(pickle.dumps(["../../x", "/etc/passwd", "a\0b"])),
    ),
    **{f"spacing {name}": mlperf(original_spacing=[value] * 3) for name, value in BAD_NUMBERS.items()},
    **{f"size {name}": mlperf(original_size_of_raw_data=[value] * 3) for name, value in BAD_NUMBERS.items()},
    **{f"case: {name}": (lambda f, make=make: (mlperf()(f), make(f / "HGG__A.pkl"))) for name, make in PLACES.items()},
    **{
        f"list: {name}": (lambda f, make=make: (mlperf()(f), make(f / "preprocessed_files.pkl")))
        for name, make in PLACES.items()
    },
}
