"""Where preprocessed cases are kept: one `<case>.npz` each, or a folder made by MLPerf's own preprocessing.

A .npz of this store holds the cropped volume and a JSON text: preprocessing version, sources, properties. Padding is
cheap and done on loading. No pickle is written, and those of MLPerf are read through an allow-list.
"""

import copy
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from unet3d import files
from unet3d.brats import nifti, npz
from unet3d.brats.dataset import Case
from unet3d.brats.preprocessing.volume import PADDED_SHAPE, Volume, check_values, pad, plain_properties
from unet3d.errors import UserError, shown
from unet3d.workload import MODALITIES

# Raised whenever a change alters what preprocessing gives for the same files.
VERSION = 1
MLPERF_LIST = "preprocessed_files.pkl"
LIST_BYTES, ABOUT_BYTES = 2**24, 2**20


@dataclass(frozen=True)
class Checked:
    """A case's file that was read whole and found good: its status, and where its numbers lie."""

    status: tuple[int, ...]
    properties: dict
    place: npz.Place


class Store:
    """Preprocessed cases in a folder. `padded_shape`: of the volumes that `load` gives.

    Checksum and values of a file are looked at when it is first loaded, not again while its status stays the same.
    """

    def __init__(self, folder: str | Path, padded_shape: Sequence[int] = PADDED_SHAPE):
        self.folder = Path(folder)
        self.padded_shape = tuple(padded_shape)
        self._checked: dict[str, Checked] = {}

    @property
    def is_mlperf(self) -> bool:
        """Whether MLPerf's preprocessing made the folder; such a folder is only read."""
        return os.path.lexists(self.folder / MLPERF_LIST)

    def names(self) -> list[str]:
        """Names of the cases that are there, sorted. Raises UserError for a bad list of MLPerf's."""
        if not self.is_mlperf:
            return sorted(file.stem for file in self.folder.glob("*.npz") if not file.name.startswith("."))
        from unet3d.brats.weights import safe_pickle

        names = safe_pickle.load(self.folder / MLPERF_LIST, LIST_BYTES)
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_name(name) for name in names):
            raise UserError(f"{shown(self.folder / MLPERF_LIST)} is not a list of case names; make it again")
        return sorted(name for name in names if (self.folder / f"{name}.pkl").is_file())

    def load(self, name: str) -> Volume:
        """The padded volume of a case. Raises UserError when it is absent, damaged or of another shape."""
        if self.is_mlperf:
            return self._load_mlperf(name)
        file = self._file(name)
        if not os.path.lexists(file):
            raise UserError(f"{shown(name)} is not in {shown(self.folder)}; run ./preprocess.sh, or set PREPROCESSED_DIR")
        try:
            with files.open_regular(file, "preprocessed case") as opened:
                status, known = _status(opened), self._checked.get(name)
                if known is not None and known.status == status:
                    volume = Volume(npz.read_place(opened, known.place), copy.deepcopy(known.properties))
                else:
                    volume = self._load_checked(name, opened, status)
        except npz.BROKEN:
            raise UserError(f"{shown(file)} is damaged; remove it and run ./preprocess.sh") from None
        return self._padded(volume, file)

    def _load_checked(self, name: str, opened: BufferedReader, status: tuple[int, ...]) -> Volume:
        with zipfile.ZipFile(opened) as content:
            properties = plain_properties(_about(content)["properties"])
            array = npz.read(content, "array", len(MODALITIES) * int(np.prod(self.padded_shape)) * 4)
            place = npz.place(content, "array")
        if array.dtype != np.float32 or array.shape != (len(MODALITIES), *properties["size_after_resampling"]):
            raise ValueError(f"{array.shape} is no volume of its properties")
        check_values(array)
        if place is not None:
            self._checked[name] = Checked(status, copy.deepcopy(properties), place)
        return Volume(array, properties)

    def is_current(self, case: Case) -> bool:
        """Whether the case is there, made by this version from the files that the data set has now."""
        try:
            with files.open_regular(self._file(case.name), "preprocessed case") as file, zipfile.ZipFile(file) as content:
                about = _about(content)
            return about["version"] == VERSION and _same_sources(about["sources"], case)
        except (UserError, *npz.BROKEN):
            return False

    def blocked(self, name: str) -> str | None:
        """Why a case can never be stored, in words; None where it can."""
        return f"its place {shown(self._file(name))} is a folder; remove it" if self._file(name).is_dir() else None

    def save(self, case: Case, volume: Volume, sources: dict) -> None:
        """Stores a cropped volume; a reader finds all of it or nothing. Raises UserError when that is impossible."""
        about = json.dumps({"version": VERSION, "sources": sources, "properties": volume.properties})
        try:
            with files.whole_file(self._file(case.name)) as partial:
                np.savez(partial, array=volume.array, about=np.array(about))
        except OSError as error:
            raise self._unwritable(error) from None

    def prepare(self) -> None:
        """Makes the folder and sees that it can be written to; removes what killed runs have left.

        Raises UserError, also for a folder of MLPerf's.
        """
        if self.is_mlperf:
            raise UserError(f"{shown(self.folder)} was made by MLPerf's preprocessing; name another with PREPROCESSED_DIR")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
            files.remove_leftovers(self.folder)
        except OSError as error:
            raise self._unwritable(error) from None

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"preprocessed data cannot be written to {shown(self.folder)} ({error.strerror}); run ./preprocess.sh where it "
            "can, or set PREPROCESSED_DIR to a folder with free space"
        )

    def _load_mlperf(self, name: str) -> Volume:
        from unet3d.brats.weights import safe_pickle

        file = self.folder / f"{name}.pkl"
        if not os.path.lexists(file):
            raise UserError(f"{shown(name)} is not in {shown(self.folder)}, which was made by MLPerf's preprocessing")
        # Numbers of eight bytes at most, which pickles of protocol 2 keep as text of up to two bytes each.
        content = safe_pickle.load(file, 16 * len(MODALITIES) * int(np.prod(self.padded_shape)) + LIST_BYTES)
        try:
            if not isinstance(content, (list, tuple)):
                raise TypeError
            array, properties = content
            if not isinstance(array, np.ndarray) or array.ndim != 4 or len(array) != len(MODALITIES) or array.dtype.kind != "f":
                raise ValueError
            properties = plain_properties(properties)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError):
            raise UserError(f"{shown(file)} is not [volume, properties] as MLPerf's preprocessing writes it") from None
        if array.shape[1:] != self.padded_shape:
            raise UserError(f"{shown(file)} holds a volume of {array.shape[1:]}; allowed is {self.padded_shape}")
        if any(n > p for n, p in zip(properties["size_after_resampling"], self.padded_shape, strict=True)):
            raise UserError(f"{shown(file)} holds the properties of a larger volume; make it again")
        with np.errstate(all="ignore"):  # too large for float32 becomes infinite, and is refused
            volume = Volume(np.ascontiguousarray(array, np.float32), properties)
        try:
            check_values(volume.array)
        except ValueError as error:
            raise UserError(f"{shown(file)}: {error}; make it again") from None
        return volume

    def _padded(self, volume: Volume, file: Path) -> Volume:
        try:
            return Volume(pad(volume.array, self.padded_shape), volume.properties)
        except ValueError as error:
            raise UserError(f"{shown(file)}: {error}") from None


def _status(opened: BufferedReader) -> tuple[int, ...]:
    """What changes when a file is written or replaced."""
    status = os.fstat(opened.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_name(name: str) -> bool:
    """Whether a name stays inside the folder."""
    return bool(name) and "/" not in name and "\0" not in name and not name.startswith(".")


def _about(content: zipfile.ZipFile) -> dict:
    text = npz.read(content, "about", ABOUT_BYTES)
    about = json.loads(str(text)) if text.dtype.kind == "U" and not text.shape else None
    if not isinstance(about, dict):
        raise TypeError("no dict")
    return about


def _source_files(case: Case) -> dict[str, Path]:
    """The files that a stored case was made from or checked with, those that are there."""
    everything = {**dict(zip(MODALITIES, case.images, strict=True)), "seg": case.truth}
    return {kind: file for kind, file in everything.items() if os.path.lexists(file)}


def describe_sources(case: Case) -> dict:
    """What tells a case's files, with the true segmentation, from changed ones: bytes, time of the last change (ns), SHA-256.

    Raises UserError for what is no regular file.
    """
    sources = {}
    for kind, file in _source_files(case).items():
        # Its status is of before it is read: a file changed meanwhile then counts as changed.
        status, digest = files.sha256_regular(file, nifti.LARGEST_FILE, kind)
        sources[kind] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}
    return sources


def _same_sources(stored: dict, case: Case) -> bool:
    found = _source_files(case)
    if stored.keys() != found.keys():
        return False
    for kind, file in found.items():
        status, known = file.stat(), stored[kind]
        if status.st_size != known["bytes"]:
            return False
        # A copied data set has new times but the same content.
        same_time = status.st_mtime_ns == known["mtime_ns"]
        if not same_time and files.sha256_regular(file, nifti.LARGEST_FILE, kind)[1] != known["sha256"]:
            return False
    return True
