"""Cases of a data set in which one file, or all, or the name is bad."""

import contextlib
import gzip
import os
import socket
import struct
from pathlib import Path

import nibabel
import numpy as np

SIZE, SHAPE = (14, 15, 16), (32, 32, 32)
MODALITIES = ("t1", "t1ce", "t2", "flair")
AFFINE = np.diag([-1.0, -1, 1, 1])
NAN, INF = float("nan"), float("inf")


def make_case(root, name="A", grade="HGG"):
    """A case of noise inside a box, 14 x 15 x 16 voxels, with all labels; `name` may be bytes."""
    folder = Path(root) / grade / os.fsdecode(name)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for modality in MODALITIES:
        array = np.zeros(SIZE, np.int16)
        array[2:-2, 2:-2, 2:-2] = generator.integers(100, 1000, (10, 11, 12))
        save(folder / f"{folder.name}_{modality}.nii.gz", array)
    labels = np.zeros(SIZE, np.uint8)
    labels[4:7, 5:8, 6:9] = generator.choice([1, 2, 4], (3, 3, 3))
    save(folder / f"{folder.name}_seg.nii.gz", labels)
    return folder


def save(file, array, affine=AFFINE, kind=nibabel.Nifti1Image):
    Path(file).write_bytes(gzip.compress(kind(array, affine).to_bytes(), 1))


def edit(file, change):
    content = bytearray(gzip.decompress(file.read_bytes()))
    changed = change(content)
    file.write_bytes(gzip.compress(bytes(content if changed is None else changed), 1))


def field(offset, form, *values):
    """Writes a field of the header."""
    return lambda file: edit(file, lambda content: struct.pack_into(form, content, offset, *values))


def fields(*changes):
    def write(file):
        for change in changes:
            field(*change)(file)

    return write


def typed(dtype, code, value=None, scale=None):
    """The same voxels in another type, the last one `value`."""

    def write(file):
        image = np.asarray(nibabel.load(file).dataobj).astype(dtype)
        if value is not None:
            image[7, 7, 7] = value
        content = bytearray(gzip.decompress(file.read_bytes())[:352])
        struct.pack_into("<hh", content, 70, code, 8 * image.dtype.itemsize)
        if scale:
            struct.pack_into("<2f", content, 112, *scale)
        file.write_bytes(gzip.compress(bytes(content) + image.tobytes("F"), 1))

    return write


def shaped(*shape, kind=nibabel.Nifti1Image):
    return lambda file: save(file, np.ones(shape, np.int16), kind=kind)


def replaced(make):
    def write(file):
        file.unlink()
        make(file)

    return write


def listen(file):
    with contextlib.chdir(file.parent), socket.socket(socket.AF_UNIX) as listening:
        listening.bind(file.name)


PLACES = {
    "pipe": replaced(os.mkfifo),
    "socket": replaced(listen),
    "device": replaced(lambda f: f.symlink_to("/dev/zero")),
    "null device": replaced(lambda f: f.symlink_to("/dev/null")),
    "random device": replaced(lambda f: f.symlink_to("/dev/urandom")),
    "folder": replaced(Path.mkdir),
    "link to nothing": replaced(lambda f: f.symlink_to("absent")),
    "ring of links": replaced(lambda f: f.symlink_to(f.name)),
    "link to pipe": replaced(lambda f: (os.mkfifo(f.with_name("p")), f.symlink_to("p"))),
    "empty": lambda f: f.write_bytes(b""),
    "hole of a terabyte": lambda f: os.truncate(f, 2**40),
    "kernel's file": replaced(lambda f: f.symlink_to("/proc/kmsg" if os.geteuid() else "/proc/self/pagemap")),
}


def bomb(file):
    """A volume and then 16 GB of zeros, packed to a thousandth of that."""
    file.write_bytes(file.read_bytes() + gzip.compress(bytes(2**24)) * 1000)


NIFTI = {
    "spacing 100 mm": field(80, "<3f", 100, 100, 100),
    "spacing 1 km": field(80, "<3f", 1e6, 1e6, 1e6),
    "spacing 1 km along x": field(80, "<f", 1e6),
    "spacing 0.1 um": field(80, "<3f", 1e-4, 1e-4, 1e-4),
    "spacing tiny": field(80, "<3f", 1e-30, 1e-30, 1e-30),
    "spacing zero": field(80, "<3f", 0, 0, 0),
    "spacing negative": field(80, "<f", -1),
    "spacing nan": field(84, "<f", NAN),
    "spacing inf": field(88, "<f", INF),
    "spacing largest": field(80, "<3f", 3e38, 3e38, 3e38),
    "metres": field(123, "<B", 1),
    "micrometres": field(123, "<B", 3),
    "unknown units": field(123, "<B", 7),
    "qfac nan": field(76, "<f", NAN),
    "quaternion nan": fields((252, "<hh", 1, 0), (256, "<3f", NAN, 0, 0)),
    "quaternion large": fields((252, "<hh", 1, 0), (256, "<3f", 5, 5, 5)),
    "sform zeros": fields((252, "<hh", 0, 1), (280, "<12f", *[0] * 12)),
    "sform nan": fields((252, "<hh", 0, 1), (280, "<12f", *[NAN] * 12)),
    "sform inf": fields((252, "<hh", 0, 1), (280, "<12f", *[INF] * 12)),
    "sform sheared": fields((252, "<hh", 0, 1), (280, "<12f", 1, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)),
    "sform of other spacing": fields((252, "<hh", 0, 1), (280, "<12f", 9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0)),
    "sform against qform": fields((252, "<hh", 1, 1), (280, "<12f", 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)),
    "no forms": field(252, "<hh", 0, 0),
    "unknown forms": field(252, "<hh", 99, -3),
    "origin nan": fields((252, "<hh", 0, 1), (292, "<f", NAN)),
    "origin far": fields((252, "<hh", 0, 1), (292, "<f", 1e30)),
    "extents 32767": field(42, "<3h", 32767, 32767, 32767),
    "extents 1024": field(42, "<3h", 1024, 1024, 1024),
    "extent zero": field(44, "<h", 0),
    "extent negative": field(46, "<h", -16),
    "axes none": field(40, "<h", 0),
    "axes negative": field(40, "<h", -3),
    "axes two": field(40, "<h", 2),
    "axes one": field(40, "<h", 1),
    "axes four": field(40, "<5h", 4, 14, 15, 16, 2),
    "axes five": field(40, "<6h", 5, 14, 15, 16, 1, 3),
    "axes seven of one": field(40, "<8h", 7, 14, 15, 16, 1, 1, 1, 1),
    "axes eight": field(40, "<h", 8),
    "type none": field(70, "<h", 0),
    "type unknown": field(70, "<h", 999),
    "type complex": field(70, "<hh", 32, 64),
    "type colours": field(70, "<hh", 128, 24),
    "type bits": field(70, "<hh", 1, 1),
    "type float128": field(70, "<hh", 1536, 128),
    "type float64, bits of int16": field(70, "<h", 64),
    "type larger than the file": field(70, "<hh", 64, 64),
    "bits zero": field(72, "<h", 0),
    "voxels before the header": field(108, "<f", -1e9),
    "voxels in the header": field(108, "<f", 0),
    "voxels after the end": field(108, "<f", 1e9),
    "voxels far after the end": field(108, "<f", 3e38),
    "voxels nowhere": field(108, "<f", NAN),
    "voxels between bytes": field(108, "<f", 352.5),
    "slope nan": field(112, "<f", NAN),
    "slope inf": field(112, "<f", INF),
    "slope -inf": field(112, "<f", -INF),
    "slope of float32's end": field(112, "<f", 3e38),
    "slope tiny": field(112, "<f", 1e-42),
    "intercept inf": field(116, "<f", INF),
    "intercept nan": field(116, "<f", NAN),
    "intercept swallows all": field(116, "<f", 3e38),
    "size of header": field(0, "<i", 5),
    "size of NIfTI-2": field(0, "<i", 540),
    "other byte order": field(0, ">i", 348),
    "magic none": field(344, "<4s", b"abcd"),
    "magic of a pair": field(344, "<4s", b"ni1\0"),
    "magic of NIfTI-2": field(344, "<4s", b"n+2\0"),
    "extension without end": lambda f: edit(
        f, lambda c: bytes(c[:348]) + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 1, 4) + bytes(c[352:])
    ),
    "extension of minus one": lambda f: edit(
        f, lambda c: bytes(c[:348]) + b"\1\0\0\0" + struct.pack("<ii", -1, 4) + bytes(c[352:])
    ),
    "intent of a vector": field(68, "<h", 1007),
    "display range inf": field(124, "<2f", INF, -INF),
    "text not UTF-8": field(148, "<80s", b"\xff\xfe" * 40),
    "float64 1e300": typed("<f8", 64, 1e300),
    "float64 nan": typed("<f8", 64, NAN),
    "float32 inf": typed("<f4", 16, INF),
    "float32 -inf": typed("<f4", 16, -INF),
    "float32 1e38": typed("<f4", 16, 1e38),
    "float32 1e20": typed("<f4", 16, 1e20),
    "float32 tiny": lambda f: save(f, (np.asarray(nibabel.load(f).dataobj) * 1e-40).astype(np.float32)),
    "float64 below float32": lambda f: save(f, np.asarray(nibabel.load(f).dataobj) * 1e-300),
    "uint64 largest": typed("<u8", 1280, 2**64 - 1, (1e30, 0)),
    "int16 scaled away": typed("<i2", 4, None, (1e36, 0)),
    "constant": lambda f: save(f, (np.asarray(nibabel.load(f).dataobj) > 0).astype(np.int16)),
    "zero": lambda f: save(f, np.zeros(SIZE, np.int16)),
    "one voxel": shaped(1, 1, 1),
    "two axes": shaped(14, 15),
    "four axes": shaped(14, 15, 16, 2),
    "five axes": shaped(14, 15, 16, 1, 3),
    "other shape": shaped(13, 15, 16),
    "NIfTI-2 of another shape": shaped(13, 15, 16, kind=nibabel.Nifti2Image),
    "cut in the header": lambda f: edit(f, lambda c: c[:300]),
    "cut in the voxels": lambda f: edit(f, lambda c: c[:-10]),
    "cut gzip": lambda f: f.write_bytes(f.read_bytes()[:-9]),
    "gzip without checksum": lambda f: f.write_bytes(f.read_bytes()[:-8] + bytes(8)),
    "gzip of nothing": lambda f: f.write_bytes(gzip.compress(b"")),
    "gzip then rubbish": lambda f: f.write_bytes(f.read_bytes() + b"rubbish"),
    "gzip then zeros": lambda f: f.write_bytes(f.read_bytes() + bytes(2**22)),
    "a hundred thousand empty gzips": lambda f: f.write_bytes(gzip.compress(b"") * 10**5 + f.read_bytes()),
    "gzip bomb": bomb,
    "not packed": lambda f: f.write_bytes(gzip.decompress(f.read_bytes())),
    "text": lambda f: f.write_bytes(b"hello"),
    "packed text": lambda f: f.write_bytes(gzip.compress(b"hello" * 100)),
    "a zip": lambda f: f.write_bytes(b"PK\3\4" + bytes(1000)),
    "analyze": lambda f: f.write_bytes(
        gzip.compress(bytes(nibabel.AnalyzeImage(np.ones(SIZE, np.int16), AFFINE).header.binaryblock))
    ),
}
# Bad in all files of a case alike, so that they fit together.
EVERYWHERE = (
    "spacing 100 mm", "spacing 1 km", "spacing 0.1 um", "metres", "micrometres", "extents 1024", "no forms", "slope inf",
    "sform against qform", "sform sheared", "spacing nan", "intercept inf", "axes four", "int16 scaled away",
)  # fmt: skip
NAMES = {
    "not UTF-8": b"K\xf6ln",
    "line end": b"A\nERROR: HGG__Good: is bad",
    "escape": b"A\x1b[31mred",
    "bell and tab": b"A\a\tB",
    "long": b"a" * 240,
    "spaces": b" A ",
    "percent": b"%s%n%d",
    "quotes": b"A'\"`$(true)",
    "right to left": "A\u202eB".encode(),
    "half of a pair": b"\xed\xa0\x80",
}


def file_of(folder, kind):
    return folder / f"{folder.name}_{kind}.nii.gz"


def case_inputs():
    """Name to a function that makes a data set with one bad case in a folder."""
    inputs = {}
    for kind in ("t1ce", "seg"):
        for name, spoil in {**NIFTI, **PLACES}.items():
            inputs[f"{kind}: {name}"] = lambda root, kind=kind, spoil=spoil: spoil(file_of(make_case(root), kind))
    for name in EVERYWHERE:
        inputs[f"all: {name}"] = lambda root, name=name: [NIFTI[name](file) for file in make_case(root).iterdir()]
    for name, words in NAMES.items():
        inputs[f"name: {name}"] = lambda root, words=words: make_case(root, words)
    inputs["mode: no file may be read"] = lambda root: [file.chmod(0) for file in make_case(root).iterdir()]
    inputs["mode: folder may not be entered"] = lambda root: make_case(root).chmod(0)
    return inputs
