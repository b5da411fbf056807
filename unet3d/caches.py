"""What is kept between runs because it takes long to make: which kinds there are, where each lies, and who uses it.

Everything is in `folder()`. Whoever takes something from it holds its kind until the process ends; clearing
waits for nobody and is refused while somebody holds.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unet3d import files
from unet3d.errors import UserError, shown

OPERATORS, TUNED, TRITON, INDUCTOR, OTHER = "operators", "tuned-forms", "triton", "inductor", "other"
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
    "fp32-voxels": Kind("fp32-voxels", "fp32's logits of sampled voxels, for the check at full size"),
    TUNED: Kind("tuned-forms", "milliseconds of each form of each convolution on a GPU, by TUNE=yes"),
    TRITON: Kind("triton", "GPU kernels compiled by Triton", "TRITON_CACHE_DIR"),
    INDUCTOR: Kind("inductor", "what torch.compile has made", "TORCHINDUCTOR_CACHE_DIR"),
    OTHER: Kind("*", "files of other versions of this benchmark"),
}
# Locks by file: they last as long as the process.
_held: dict[Path, int] = {}
_temporary: list[tuple[int, str]] = []  # folders, each with the process that has made it


@dataclass(frozen=True)
class Entry:
    """A file or folder that is kept: bytes on the disk, and seconds since 1970 of the newest file in it."""

    path: Path
    size: int
    changed: float


def folder() -> Path:
    """Where everything is kept that can be made again: exports, quantised networks, built operators. It need not exist.

    `unet3d` in XDG_CACHE_HOME (https://specifications.freedesktop.org/basedir-spec), by default in ~/.cache. Where that
    cannot be written to, or nobody knows this user's home, a temporary folder of this process and its children.
    A relative XDG_CACHE_HOME counts as not set, as the specification asks for.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        parent = Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
        if files.can_write(parent / "unet3d"):
            return parent / "unet3d"
        reason = f"{shown(parent)} cannot be written to"
    except RuntimeError:
        reason = "this user has no home"
    except OSError as error:
        reason = f"{shown(named or '~/.cache')}: {error.strerror}"
    return _temporary_folder(reason)


@functools.cache
def _temporary_folder(reason: str) -> Path:
    made = tempfile.mkdtemp(prefix="unet3d-cache-")
    _temporary.append((os.getpid(), made))
    atexit.register(remove_temporary)
    # Ranks find there what their parent has built.
    os.environ["XDG_CACHE_HOME"] = made
    print(f"WARNING[cache]: {reason}: what is compiled is kept for this run only; set XDG_CACHE_HOME", file=sys.stderr)
    return Path(made) / "unet3d"


def remove_temporary() -> None:
    """Remove temporary folders of this process: at its end, and before it ends without Python's own."""
    while _temporary:
        maker, made = _temporary.pop()
        if maker == os.getpid():
            shutil.rmtree(made, ignore_errors=True)


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
        if kind.variable is not None and ours(name):
            os.environ[kind.variable] = str(folder() / kind.folder)
            hold(folder(), name)


def place(kind: str) -> Path:
    """The folder that holds a kind's entries."""
    told, pattern = _told(kind), KINDS[kind].folder
    if told is not None:
        return told
    return folder() if "*" in pattern else folder() / pattern


def entries(kind: str) -> list[Entry]:
    """What is kept of a kind, by path. An entry of another process' making is listed too.

    Raises:
        UserError: when it cannot be read.
    """
    inside, pattern = place(kind), KINDS[kind].folder
    try:
        if kind == OTHER:
            known = {path for name in KINDS if name != OTHER for path in inside.glob(KINDS[name].folder)}
            found = [path for path in inside.glob("*") if path not in known and not path.name.startswith(_LOCK)]
        else:
            found = list(inside.glob(pattern if "*" in pattern else "*"))
        return [_entry(path) for path in sorted(found)]
    except OSError as error:
        raise UserError(f"cache: {inside} cannot be read ({error.strerror}); change its owner or mode") from None


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
            path = _lock_file(folder(), name)
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
    inside = folder() / KINDS[kind].folder
    return Path(told) if told and Path(told) != inside else None


def _lock_file(cache: Path, kind: str) -> Path:
    if kind not in KINDS:
        raise KeyError(f"{kind} is not in KINDS")
    return cache / f"{_LOCK}{kind}"


def _entry(path: Path) -> Entry:
    size, changed = 0, path.lstat().st_mtime
    for file in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(FileNotFoundError):  # a run that makes it has moved it meanwhile
            status = file.lstat()
            size += 512 * status.st_blocks
            if not file.is_dir():
                changed = max(changed, status.st_mtime)
    return Entry(path, size, changed)
