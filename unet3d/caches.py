"""What is kept between runs because it takes long to make: which kinds there are, where each lies, and who uses it.

Everything is in `files.cache_folder()`. Whoever takes something from it holds its kind until the process ends; clearing
waits for nobody and is refused while somebody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unet3d import files
from unet3d.errors import UserError

OPERATORS, TRITON, INDUCTOR, OTHER = "operators", "triton", "inductor", "other"
_LOCK = ".in-use-"


@dataclass(frozen=True)
class Kind:
    """A kind of thing that is kept. folder: its name in the cache; with a pattern, one folder an entry.

    variable: the library's own variable for the place. Where the user has set it, others may share that place.
    """

    folder: str
    what: str
    variable: str | None = None


KINDS = {
    OPERATORS: Kind("fused-*", "C++ operators for CPUs, one library for each PyTorch and CPU"),
    "openvino": Kind("openvino", "networks exported for OpenVINO"),
    "openvino-int8": Kind("openvino-int8", "networks quantised for OpenVINO"),
    "onnx": Kind("onnx", "networks exported for ONNX Runtime"),
    "int8-ranges": Kind("int8-ranges", "ranges of activations, for int8 by PyTorch"),
    "fp32-dice": Kind("fp32-dice", "Dice of each case in fp32, which int8 is compared with"),
    TRITON: Kind("triton", "GPU kernels compiled by Triton", "TRITON_CACHE_DIR"),
    INDUCTOR: Kind("inductor", "what torch.compile has made", "TORCHINDUCTOR_CACHE_DIR"),
    OTHER: Kind("*", "files of other versions of this benchmark"),
}
# Locks by file: they last as long as the process.
_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Entry:
    """A file or folder that is kept: bytes on the disk, and seconds since 1970 of the newest file in it."""

    path: Path
    size: int
    changed: float


def hold(cache: Path, kind: str) -> None:
    """Keep a kind of one cache folder from being cleared until this process ends; waits while it is being cleared.

    A folder that cannot be written to, or whose file system has no locks, is left as it is: nobody can clear it either.
    """
    path = _lock_file(cache, kind)
    if path in _held:
        return
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError:
            os.close(descriptor)
            raise
        _held[path] = descriptor


def share() -> None:
    """Have Triton and torch.compile keep what they make in this cache, unless the user has named another place."""
    for name, kind in KINDS.items():
        if kind.variable is None or not ours(name):
            continue
        folder = files.cache_folder()
        if _writable(folder):
            os.environ[kind.variable] = str(folder / kind.folder)
            hold(folder, name)


def place(kind: str) -> Path:
    """The folder that holds a kind's entries."""
    told = _told(kind)
    if told is not None:
        return told
    folder = files.cache_folder()
    return folder if "*" in KINDS[kind].folder else folder / KINDS[kind].folder


def entries(kind: str) -> list[Entry]:
    """What is kept of a kind, by path. An entry of another process' making is listed too.

    Raises:
        UserError: when it cannot be read.
    """
    folder, pattern = place(kind), KINDS[kind].folder
    try:
        if kind == OTHER:
            known = {path for name in KINDS if name != OTHER for path in folder.glob(KINDS[name].folder)}
            found = [path for path in folder.glob("*") if path not in known and not path.name.startswith(_LOCK)]
        else:
            found = list(folder.glob(pattern if "*" in pattern else "*"))
        return [_entry(path) for path in sorted(found)]
    except OSError as error:
        raise UserError(f"cache: {folder} cannot be read ({error.strerror}); change its owner or mode") from None


def clear(kind: str) -> list[Entry]:
    """Remove what is kept of a kind; returns what that was.

    Raises:
        UserError: when a process uses it, when it is in a place that the user has named for the library, or when
            something cannot be removed.
    """
    if _told(kind) is not None:
        raise UserError(
            f"cache: {kind} is in {place(kind)}, named by {KINDS[kind].variable}, and may be shared with other programs; "
            "remove it yourself"
        )
    gone = entries(kind)
    if not gone:
        return []
    with _alone(kind):
        for entry in gone:
            try:
                if entry.path.is_dir() and not entry.path.is_symlink():
                    shutil.rmtree(entry.path)
                else:
                    entry.path.unlink()
            except OSError as error:
                raise UserError(
                    f"cache: {error.filename} cannot be removed ({error.strerror}); change its owner or mode"
                ) from None
    return gone


def ours(kind: str) -> bool:
    """Whether a kind lies in the benchmark's own folder, so that it may be cleared."""
    return _told(kind) is None


@contextlib.contextmanager
def _alone(kind: str) -> Iterator[None]:
    """While nobody holds a kind; who comes meanwhile waits.

    Raises:
        UserError: when somebody holds it.
    """
    # What no kind claims may be anybody's.
    wanted = [name for name in KINDS if kind in (name, OTHER)]
    with contextlib.ExitStack() as stack:
        for name in wanted:
            path = _lock_file(files.cache_folder(), name)
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o666)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"cache: a run under way uses {name}, {kind} was not removed; wait until the run has ended"
                ) from None
            except OSError as error:
                raise UserError(f"cache: {path} cannot be locked ({error.strerror}); change its owner or mode") from None
        yield


def _told(kind: str) -> Path | None:
    """The place that the user has named for a library's own cache; None where it is in our folder."""
    variable = KINDS[kind].variable
    told = os.environ.get(variable, "") if variable else ""
    inside = files.cache_folder() / KINDS[kind].folder
    return Path(told) if told and Path(told) != inside else None


def _lock_file(cache: Path, kind: str) -> Path:
    if kind not in KINDS:
        raise KeyError(f"{kind} is not in KINDS")
    return cache / f"{_LOCK}{kind}"


def _writable(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return os.access(there, os.W_OK | os.X_OK)


def _entry(path: Path) -> Entry:
    size, changed = 0, path.lstat().st_mtime
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(FileNotFoundError):  # a run that makes it has moved it meanwhile
            status = file.lstat()
            size += 512 * status.st_blocks
            if not file.is_dir():
                changed = max(changed, status.st_mtime)
    return Entry(path, size, changed)
