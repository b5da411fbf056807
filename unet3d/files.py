"""Files and folders that are whole or not there at all: the only place of the package that writes so. And files that
others have written, which are opened only where they are regular files: a pipe or a device would never end.

What is being written has a hidden name beside its place (`.partial-…`) until it is complete, then it is renamed. Files
and folders get the mode that the user's other files get, 0666 and 0777 less the umask: they are meant to be read by
others, such as the user that a container runs as.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from unet3d.errors import UserError, shown

PARTIAL = ".partial-"
STALE_AFTER_S = 3600
# Characters of the final name that the hidden one keeps: its ending, by which some writers choose the format.
_KEPT = 40


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: str | Path, what: str) -> None:
    """See that there is a regular file, or a link to one, that this user may read.

    what: what messages call the file, such as "weights".

    Raises:
        UserError: in one line, for everything else: nothing there, a folder, a pipe, a socket, a device.
    """
    open_regular(path, what).close()


def open_regular(path: str | Path, what: str, limit: int | None = None) -> BufferedReader:
    """An open file, of which it is known that it is a regular one, or that a link leads to one. See `require_regular`.

    Raises:
        UserError: as `require_regular`, and for a file of more than `limit` bytes.
    """
    try:
        # Asked before it is opened, as opening alone may start a device; and after, as it may have been replaced.
        _must_be_regular(os.stat(path), path, what)  # noqa: PTH116 - a name with NUL is no error to pathlib
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            _must_be_regular(status, path, what)
            if limit is not None and status.st_size > limit:
                raise _too_large(path, what, status.st_size, limit)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise UserError(
            f"{what} {shown(path)}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from None
    except ValueError:
        raise UserError(f"{what} {shown(path)}: no file can have this name; check the path") from None


def _must_be_regular(status: os.stat_result, path: str | Path, what: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise UserError(f"{what} {shown(path)}: is {_KINDS.get(kind, 'no file')}; a regular file is needed")


def read_regular(path: str | Path, limit: int, what: str) -> bytes:
    """The content of a regular file of at most `limit` bytes; nothing is read of a larger one.

    what: what messages call the file, such as "weights".

    Raises:
        UserError: as `require_regular`, and for a larger file.
    """
    with open_regular(path, what, limit) as file:
        try:
            # Some files, such as those of /proc, hold more than their size says.
            content = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{what} {shown(path)}: cannot be read ({error.strerror}); check the disk") from None
    if len(content) > limit:
        raise _too_large(path, what, len(content), limit)
    return content


def sha256_regular(path: str | Path, limit: int, what: str) -> tuple[os.stat_result, str]:
    """Status of a regular file of at most `limit` bytes, taken before it is read, and its SHA-256.

    Raises:
        UserError: as `read_regular`.
        OSError: when the disk fails.
    """
    digest, held = hashlib.sha256(), 0
    with open_regular(path, what, limit) as file:
        status = os.fstat(file.fileno())
        while piece := file.read(2**20):
            held += len(piece)
            if held > limit:
                raise _too_large(path, what, held, limit)
            digest.update(piece)
    return status, digest.hexdigest()


def _too_large(path: str | Path, what: str, size: int, limit: int) -> UserError:
    return UserError(f"{what} {shown(path)}: has {size} bytes or more, at most {limit} are allowed; name another file")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new, never a part.

    content: text is written in UTF-8, a lone surrogate in it (of a variable that is no UTF-8) as its escape.

    Raises:
        UserError: when the folder cannot be written to or the disk is full.
    """
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{shown(path)}: cannot be written ({reason}); free some space or name another folder with OUTPUT_DIR"
        ) from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """An empty file to fill, with the same ending as `path`, which it replaces when the block ends without an error.

    A link stays a link: the file that it points to is replaced. A pipe or a device is not: it would be gone for everybody.

    Raises:
        OSError: when it cannot be written; whatever the block raises. `path` is then as it was.
    """
    _must_be_replaceable(path)
    partial = _partial(_target(path))
    # The kernel takes the umask off; reading it would set it for a moment, for all threads.
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    try:
        yield partial
        move_into_place(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _must_be_replaceable(path: Path) -> None:
    """See that nothing but a regular file would be replaced; links are followed.

    Raises:
        OSError: for everything else that is there.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116 - of links of /proc the file system knows no path
    except FileNotFoundError:
        return
    if kind != stat.S_IFREG:
        raise OSError(errno.EEXIST, f"it is {_KINDS.get(kind, 'no file')}", str(path))


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


def can_write(folder: Path) -> bool:
    """Whether files could be put into a folder, which need not exist; nothing of the attempt is left.

    Only an attempt tells: to root every folder's mode says yes, also /proc's.
    """
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False


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
            f"{variable}: '{shown(folder)}' cannot be written to ({error.strerror}); "
            f"name another folder with {variable}, or change its owner or mode"
        ) from None


def move_aside(path: Path) -> Path | None:
    """Rename an existing file or folder after the time of its last change, results.yaml to results.20260301-120000.yaml.

    Returns the new path, None where there was nothing.

    Raises:
        UserError: when the folder cannot be written to.
    """
    moved = move_all_aside(path.parent, [path.name])
    return moved[0] if moved else None


def move_all_aside(folder: Path, names: Iterable[str]) -> list[Path]:
    """Rename those files and folders of these names that are there, all after the time of the first one's last change.

    Returns the new paths: what belongs to one run has one stamp.

    Raises:
        UserError: when the folder cannot be written to.
    """
    there = [folder / name for name in names if os.path.lexists(folder / name)]
    if not there:
        return []
    stamp, count = datetime.fromtimestamp(there[0].lstat().st_mtime).strftime("%Y%m%d-%H%M%S"), 1
    targets = [_stamped(path, stamp) for path in there]
    while any(os.path.lexists(target) for target in targets):
        count += 1
        targets = [_stamped(path, f"{stamp}-{count}") for path in there]
    for path, target in zip(there, targets, strict=True):
        try:
            path.rename(target)
        except OSError as error:
            raise UserError(
                f"{shown(path)}: cannot be renamed ({error.strerror}); name another folder with OUTPUT_DIR"
            ) from None
    return targets


def _stamped(path: Path, stamp: str) -> Path:
    return path.with_name(f"{path.stem}.{stamp}{path.suffix}")
