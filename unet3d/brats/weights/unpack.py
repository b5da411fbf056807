"""nnU-Net model archives and their unpacked folders: found, checked and unpacked so that no path leaves the folder."""

import contextlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from unet3d import files, json_files
from unet3d.errors import BenchmarkError, UserError, shown

CHECKPOINT = "model_final_checkpoint.model"
MODEL_FOLDER = "nnUNet/3d_fullres/Task043_BraTS2019/nnUNetTrainerV2__nnUNetPlansv2.mlperf.1"
ORIGIN = "origin.json"
MAX_MEMBERS = 1000
MAX_BYTES = 4 * 2**30
# Of one file that is read into memory. MLPerf's checkpoint with its optimizer's state has 250 MB, its plans 1 MB.
MAX_FILE_BYTES = {"checkpoint": 2**30, "info": 2**26, "plans": 2**26}
MAX_RECORD_BYTES = 2**22
_DEEPEST = 6  # levels under the folder given at which fold_N is looked for; the archive of MLPerf has 4
_MOST_ENTRIES = 20_000  # of the folders that are looked through for it


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece. Raises UserError where it is no regular file, or larger than an archive."""
    return files.sha256_regular(path, MAX_BYTES, "weights")[1]


def record_path(archive: Path) -> Path:
    """Where the record of a fetched archive (URL, SHA-256, size) is kept: beside it."""
    return archive.with_name(archive.name + ".json")


def write_json(path: Path, content: dict) -> None:
    """Write a small record atomically."""
    with files.whole_file(path) as partial:
        partial.write_text(json_files.text(content), encoding="utf-8")


def read_json(path: Path) -> dict | None:
    """A record, or None when there is none that can be read."""
    try:
        content = json_files.read(path, MAX_RECORD_BYTES, "record")
    except UserError:
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    """The archive and its files, checked: no absolute path, no '..', no link, not too many, not too large.

    Raises UserError, also for damage met while the archive is read inside the `with`.
    """
    with files.open_regular(path, "weights") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive, _checked(archive, path)
        except BenchmarkError:
            raise
        except OSError as error:
            reason = shown(error.strerror or error)
            raise UserError(f"{shown(path)}: {reason}; check the path, its permissions and the space left.") from None
        except MemoryError:
            raise UserError(f"{shown(path)}: unpacking needs more memory than there is; it is no model archive.") from None
        except Exception as error:  # noqa: BLE001 - what is damaged ends in errors of zipfile and of each way to compress
            reason = shown(error) or type(error).__name__
            raise UserError(f"{shown(path)}: not a complete zip archive ({reason}); delete it and fetch it again.") from None


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{path}: holds {len(members)} files, at most {MAX_MEMBERS} are allowed; it is no model archive.")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise UserError(f"{path}: would unpack to {total} bytes, at most {MAX_BYTES} are allowed; it is no model archive.")
    plain_files, seen = [], set()
    for member in members:
        name = member.orig_filename  # zipfile itself cuts `filename` at a NUL and turns backslashes
        parts = PurePosixPath(name).parts
        kind = stat.S_IFMT(member.external_attr >> 16)
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            raise UserError(f"{path}: refused, its member {shown(repr(name))} would be written outside the folder.")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path}: refused, its member {shown(repr(name))} is a link or a device, not a plain file.")
        if not member.is_dir():
            if parts in seen:
                raise UserError(f"{path}: refused, its member {shown(repr(name))} is there twice.")
            seen.add(parts)
            plain_files.append(member)
    return plain_files


def unpack(archive_path: Path, folder: Path, origin: dict | None = None) -> Path:
    """Unpack a model archive into `folder`, which appears complete or not at all, and return it.

    `origin` (of the archive: its URL and SHA-256) is kept in `origin.json` with the SHA-256 of every file.
    Raises UserError for an unsafe or damaged archive and a full disk.
    """
    archive_path, folder = Path(archive_path), Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The archive's block is the outer one: it gives all errors, those of the folder too, a line that says what to do.
    with open_archive(archive_path) as (archive, members), files.whole_folder(folder, replace=True) as partial:
        digests = {}
        for member in members:
            target = partial.joinpath(*PurePosixPath(member.filename).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file, 2**20)
            digests[member.filename] = file_sha256(target)
        write_json(partial / ORIGIN, {**(origin or {}), "files": digests})
    return folder


def _choose(checkpoints: list[PurePosixPath], fold: int, where: str, folds: set[str]) -> PurePosixPath:
    if len(checkpoints) == 1:
        return checkpoints[0]
    if checkpoints:
        raise UserError(f"{where}: holds {len(checkpoints)} models with a fold_{fold}; name the folder of one of them.")
    others = f"; it has {shown(', '.join(sorted(folds)))}" if folds else ""
    raise UserError(f"{where}: holds no fold_{fold}/{CHECKPOINT}{others}; give a fold_{fold}.zip or its unpacked folder.")


def read_model(source: Path, fold: int) -> tuple[dict[str, bytes], Path, dict[str, str]]:
    """The files of one fold's model from an archive or an unpacked folder.

    Returns the bytes of 'checkpoint', 'info' (the checkpoint's .pkl, where there is one) and 'plans' (where there is
    one), the folder that other paths of the model are relative to, and the path of each file relative to it.
    Raises UserError when the fold is not there, or not there once, and for a file that is larger than a model's.
    """
    source = Path(source)
    if source.is_dir():
        names = _names(_checkpoints(source), fold, source)
        # A link that leads nowhere is not absent: it is refused.
        names = {key: name for key, name in names.items() if os.path.lexists(source / name)}
        content = {key: files.read_regular(source / name, MAX_FILE_BYTES[key], "weights") for key, name in names.items()}
        return content, source, {key: str(name) for key, name in names.items()}
    with open_archive(source) as (archive, members):
        by_name = {PurePosixPath(member.filename): member for member in members}
        there = [name for name in by_name if name.name == CHECKPOINT and name.parent.name.startswith("fold_")]
        names = {key: name for key, name in _names(there, fold, source).items() if name in by_name}
        for key, name in names.items():
            if by_name[name].file_size > MAX_FILE_BYTES[key]:
                raise UserError(
                    f"{shown(source)}: its member {shown(name)} has {by_name[name].file_size} bytes, "
                    f"at most {MAX_FILE_BYTES[key]} are allowed; it is no model archive."
                )
        return (
            {key: archive.read(by_name[name]) for key, name in names.items()},
            source,
            {key: str(name) for key, name in names.items()},
        )


def _checkpoints(source: Path) -> list[PurePosixPath]:
    """Paths of every fold's checkpoint under a folder, relative to it."""
    found, entries, level = [], 0, [""]
    try:
        for _ in range(_DEEPEST):
            below = []
            for folder in level:
                with os.scandir(source / folder) as inside:
                    for entry in inside:
                        entries += 1
                        if entries > _MOST_ENTRIES:
                            raise UserError(
                                f"{shown(source)}: has over {_MOST_ENTRIES} files and folders; name the folder of a model."
                            )
                        if entry.is_dir():
                            below.append(f"{folder}{entry.name}/")
                            if entry.name.startswith("fold_") and os.path.lexists(source / folder / entry.name / CHECKPOINT):
                                found.append(PurePosixPath(folder, entry.name, CHECKPOINT))
            level = below
    except OSError as error:
        raise UserError(f"{shown(error.filename)}: {error.strerror}; check its permissions.") from None
    return found


def _names(there: list[PurePosixPath], fold: int, where: Path) -> dict[str, PurePosixPath]:
    wanted = [name for name in there if name.parent.name == f"fold_{fold}"]
    checkpoint = _choose(wanted, fold, shown(where), {name.parent.name for name in there})
    return {
        "checkpoint": checkpoint,
        "info": checkpoint.with_name(CHECKPOINT + ".pkl"),
        "plans": checkpoint.parent.parent / "plans.pkl",
    }
