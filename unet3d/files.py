"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from datetime import datetime
from pathlib import Path

from unet3d.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new, never a part.

    Raises:
        UserError: when the folder cannot be written to or the disk is full.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files private; results are meant to be read by others, as other files of the user are.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space or name another folder with OUTPUT_DIR"
        ) from None


def cache_folder() -> Path:
    """Where everything is kept that can be made again: exports, quantised networks, built operators. It need not exist.

    `unet3d` in XDG_CACHE_HOME (https://specifications.freedesktop.org/basedir-spec), by default in ~/.cache.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unet3d"


def prepare_folder(folder: Path, variable: str) -> None:
    """Make a folder and see that files can be written to it.

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
