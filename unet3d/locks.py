"""One run at a time in a folder: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import sys
from pathlib import Path

from unet3d.errors import UserError, shown

NAME = ".lock"
# File systems that know no locks, or not here: some network mounts.
_WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


class FolderLock:
    """Holds a folder until `release`, or until the process is gone; a file of a killed process blocks nobody.

    flock(2) holds between processes, containers and, on NFS, machines. Processes that this one starts do not have it.

    Raises:
        UserError: when another process holds it, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, variable: str):
        """variable: the setting that names the folder, for the message."""
        self._path = folder / NAME
        self._descriptor: int | None = None
        try:
            while self._descriptor is None:
                self._descriptor = self._take(folder, variable)
        except OSError as error:
            raise UserError(
                f"{variable}: '{shown(folder)}' cannot be locked ({error.strerror}); name another folder with {variable}"
            ) from None

    def _take(self, folder: Path, variable: str) -> int | None:
        """The locked file's descriptor, None where the one who held it has just removed it."""
        how = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, how | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            # Left by another user's killed run, such as a container's: it can be locked all the same.
            descriptor = os.open(self._path, how | os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = shown(os.read(descriptor, 200).decode("utf-8", "replace").strip())
            os.close(descriptor)
            raise UserError(
                f"{variable}: '{shown(folder)}' is in use by another run{f' ({holder})' if holder else ''}; wait for its "
                f"end, or name another folder with {variable}"
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT:
                os.close(descriptor)
                raise
            print(
                f"WARNING[no-lock]: '{shown(folder)}' is on a file system without locks ({error.strerror}); see that no other "
                "run writes there",
                file=sys.stderr,
            )
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), self._path.stat(follow_symlinks=False)):
                with contextlib.suppress(OSError):  # a full disk, another user's file: the lock holds without a name
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
                return descriptor
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Give the folder free and remove the file; more than once is as once."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(descriptor)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
