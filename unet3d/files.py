"""Files and folders that are whole or not there at all: the only place of the package that writes so.

What is being written has a hidden name beside its place (`.partial-…`) until it is complete, then it is renamed. Files
and folders get the mode that the user's other files get, 0666 and 0777 less the umask: they are meant to be read by
others, such as the user that a container runs as.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from unet3d.errors import UserError

PARTIAL = ".partial-"
STALE_AFTER_S = 3600
# Characters of the final name that the hidden one keeps: its ending, by which some writers choose the format.
_KEPT = 40


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new, never a part.

    content: text is written in UTF-8.

    Raises:
        UserError: when the folder cannot be written to or the disk is full.
    """
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or name another folder with OUTPUT_DIR"
        ) from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file to fill, with the same ending as `path`, which it replaces when the block ends without an error.

    A link stays a link: the file that it points to is replaced.

    Raises:
        OSError: when it cannot be written; whatever the block raises. `path` is then as it was.
    """
    partial = _partial(_target(path))
    # The kernel takes the umask off; reading it would set it for a moment, for all threads.
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    try:
        yield partial
        move_into_place(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def move_into_place(written: Path, path: Path) -> None:
    """Rename a complete file of the same file system to `path`, once its content is on the disk.

    Raises:
        OSError: when that is impossible; `path` is then as it was.
    """
    descriptor = os.open(written, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(written, _target(path))


@contextlib.contextmanager
def whole_folder(path: Path, *, replace: bool = False, drafts: Path | None = None) -> Iterator[Path]:
    """An empty folder to fill, which is renamed to `path` when the block ends without an error.

    replace: remove what is at `path` first. Otherwise a folder that another process has made there meanwhile stays, and
    this one is dropped. drafts: a folder of the same file system that holds it until then, by default the one of `path`,
    which is otherwise made only at the end.

    Raises:
        OSError: when it cannot be written; whatever the block raises. Then nothing of it is left.
    """
    partial = _partial(path if drafts is None else drafts / path.name)
    partial.mkdir()
    try:
        yield partial
        path.parent.mkdir(parents=True, exist_ok=True)
        if replace and path.exists():
            shutil.rmtree(path)
        try:
            os.replace(partial, path)
        except OSError:
            if replace or not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left in a folder, if it is older than `STALE_AFTER_S` seconds.

    Younger ones may belong to a run that is under way.

    Raises:
        OSError: when the folder cannot be read or a file cannot be removed.
    """
    for leftover in folder.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # another run was first
            if time.time() - leftover.stat().st_mtime <= STALE_AFTER_S:
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{secrets.token_hex(8)}-{path.name[-_KEPT:]}")


def _target(path: Path) -> Path:
    """The file that a link points to, else the path itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def cache_folder() -> Path:
    """Where everything is kept that can be made again: exports, quantised networks, built operators. It need not exist.

    `unet3d` in XDG_CACHE_HOME (https://specifications.freedesktop.org/basedir-spec), by default in ~/.cache.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unet3d"


def can_write(folder: Path) -> bool:
    """Whether files could be put into a folder, which need not exist; nothing is made to find out."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def prepare_folder(folder: Path, variable: str) -> None:
    """Make a folder and see that files can be written to it.

    variable: the setting that names the folder, for the message.

    Raises:
        UserError: naming the variable to change.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{variable}: {str(folder)!r} cannot be written to ({error.strerror}); "
            f"name another folder with {variable}, or change its owner or mode"
        ) from None


def move_aside(path: Path) -> Path | None:
    """Rename an existing file after the time of its last change, results.yaml to results.20260301-120000.yaml.

    Returns the new path, None where there was no file.

    Raises:
        UserError: when the folder cannot be written to.
    """
    if not path.exists():
        return None
    stamp = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    target, count = path.with_name(f"{path.stem}.{stamp}{path.suffix}"), 1
    while target.exists():
        count += 1
        target = path.with_name(f"{path.stem}.{stamp}-{count}{path.suffix}")
    try:
        path.rename(target)
    except OSError as error:
        raise UserError(f"{path}: cannot be renamed ({error.strerror}); name another folder with OUTPUT_DIR") from None
    return target
