"""Where preprocessed cases are kept: one `<case>.npz` each, or a folder made by MLPerf's own preprocessing.

A .npz of this store holds the cropped volume and a JSON text: preprocessing version, sources, properties. Padding is
cheap and done on loading. No pickle is written, and those of MLPerf are read through an allow-list.
"""

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet3d import files
from unet3d.brats.dataset import Case
from unet3d.brats.preprocessing.volume import PADDED_SHAPE, Volume, pad, plain_properties
from unet3d.errors import UserError
from unet3d.workload import MODALITIES

# Raised whenever a change alters what preprocessing gives for the same files.
VERSION = 1
MLPERF_LIST = "preprocessed_files.pkl"
# What numpy and zipfile raise for a damaged .npz; MemoryError where its header announces more than any memory.
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Store:
    """Preprocessed cases in a folder. `padded_shape`: of the volumes that `load` gives."""

    def __init__(self, folder: str | Path, padded_shape: Sequence[int] = PADDED_SHAPE):
        self.folder = Path(folder)
        self.padded_shape = tuple(padded_shape)

    @property
    def is_mlperf(self) -> bool:
        """Whether MLPerf's preprocessing made the folder; such a folder is only read."""
        return (self.folder / MLPERF_LIST).is_file()

    def names(self) -> list[str]:
        """Names of the cases that are there, sorted. Raises UserError for a bad list of MLPerf's."""
        if not self.is_mlperf:
            return sorted(file.stem for file in self.folder.glob("*.npz") if not file.name.startswith("."))
        from unet3d.brats.weights import safe_pickle

        names = safe_pickle.load(self.folder / MLPERF_LIST)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.folder / MLPERF_LIST} is not a list of case names; make it again")
        return sorted(name for name in names if (self.folder / f"{name}.pkl").is_file())

    def load(self, name: str) -> Volume:
        """The padded volume of a case. Raises UserError when it is absent, damaged or of another shape."""
        if self.is_mlperf:
            return self._load_mlperf(name)
        file = self._file(name)
        try:
            with np.load(file, allow_pickle=False) as content:
                volume = Volume(content["array"], plain_properties(json.loads(str(content["about"]))["properties"]))
            if volume.array.dtype != np.float32 or volume.array.ndim != 4 or len(volume.array) != len(MODALITIES):
                raise ValueError("not a volume")
        except FileNotFoundError:
            raise UserError(f"{name} is not in {self.folder}; run ./preprocess.sh, or set PREPROCESSED_DIR") from None
        except BROKEN:
            raise UserError(f"{file} is damaged; remove it and run ./preprocess.sh") from None
        return self._padded(volume, file)

    def is_current(self, case: Case) -> bool:
        """Whether the case is there, made by this version from the files that the data set has now."""
        try:
            with np.load(self._file(case.name), allow_pickle=False) as content:
                about = json.loads(str(content["about"]))
            return about["version"] == VERSION and _same_sources(about["sources"], case)
        except BROKEN:
            return False

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
            raise UserError(f"{self.folder} was made by MLPerf's preprocessing; name another with PREPROCESSED_DIR")
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
            f"preprocessed data cannot be written to {self.folder} ({error.strerror}); run ./preprocess.sh where it "
            "can, or set PREPROCESSED_DIR to a folder with free space"
        )

    def _load_mlperf(self, name: str) -> Volume:
        from unet3d.brats.weights import safe_pickle

        file = self.folder / f"{name}.pkl"
        if not file.is_file():
            raise UserError(f"{name} is not in {self.folder}, which was made by MLPerf's preprocessing")
        try:
            content = safe_pickle.load(file)
            if not isinstance(content, (list, tuple)):
                raise TypeError
            array, properties = content
            if not isinstance(array, np.ndarray) or array.ndim != 4 or len(array) != len(MODALITIES) or array.dtype.kind != "f":
                raise ValueError
            properties = plain_properties(properties)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError):
            raise UserError(f"{file} is not [volume, properties] as MLPerf's preprocessing writes it") from None
        volume = Volume(np.ascontiguousarray(array, np.float32), properties)
        if array.shape[1:] != self.padded_shape:
            raise UserError(f"{file} holds a volume of {array.shape[1:]}; allowed is {self.padded_shape}")
        return volume

    def _padded(self, volume: Volume, file: Path) -> Volume:
        try:
            return Volume(pad(volume.array, self.padded_shape), volume.properties)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None


def describe_sources(case: Case) -> dict:
    """What tells a case's files from changed ones: bytes, time of the last change (ns), SHA-256."""
    sources = {}
    for modality, file in zip(MODALITIES, case.images, strict=True):
        # Taken before reading: a file changed meanwhile then counts as changed.
        status = file.stat()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        sources[modality] = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}
    return sources


def _same_sources(stored: dict, case: Case) -> bool:
    for modality, file in zip(MODALITIES, case.images, strict=True):
        status, known = file.stat(), stored[modality]
        if status.st_size != known["bytes"]:
            return False
        # A copied data set has new times but the same content.
        same_time = status.st_mtime_ns == known["mtime_ns"]
        if not same_time and hashlib.sha256(file.read_bytes()).hexdigest() != known["sha256"]:
            return False
    return True
