"""What this process is allowed to do, looked at before it does anything: limits, its working folder, its libraries."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path

from unet3d import streams
from unet3d.errors import UserError, UserErrors, shown

# PyTorch, its compilers and the files of a run stay far below; torchrun has pipes for every rank.
FILES_WANTED, FILES_NEEDED = 4096, 128
# Of each prefix, variables that PyTorch and the libraries beside it read while they are imported.
READ_AT_IMPORT = ("TORCH", "PYTORCH", "TRITON", "ATEN", "CUDA", "LD_")


def must_be_able_to_work() -> None:
    """See that the process can open files, write its own and has a working folder.

    Raises:
        UserErrors: a line for each of these that it cannot.
    """
    problems = []
    if not Path(os.environ.get("XDG_CACHE_HOME") or "/").is_absolute():
        # It counts as not set, but libraries would make theirs in the working folder.
        del os.environ["XDG_CACHE_HOME"]
    try:
        Path.cwd()
    except OSError as error:
        problems.append(f"the working folder cannot be read ({error.strerror}), was it deleted? cd to one that is there")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_WANTED:
        wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        if soft < FILES_NEEDED:
            problems.append(f"this process may open {soft} files, {FILES_NEEDED} are needed; raise ulimit -n")
    if _umask() & 0o700:
        problems.append(f"the umask {_umask():04o} takes the rights to new files from their owner too; use one such as 0022")
    if problems:
        raise UserErrors(problems)


def _umask() -> int:
    """As the kernel tells it: os.umask can read it only by setting it."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0


def import_torch() -> None:
    """Import PyTorch for the first time, with what it says put aside.

    Raises:
        UserError: when that fails, with the variables that it may have stumbled over.
    """
    # Kineto prints its own start and stop to standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        with contextlib.redirect_stderr(streams.noise()):
            import torch  # noqa: F401
    except Exception as error:  # noqa: BLE001 - a library that is broken or misled raises anything
        found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(READ_AT_IMPORT)}
        these = ", ".join(f"{name}={shown(value, 60)}" for name, value in found.items())
        remedy = f"it reads these variables, unset those that are wrong: {shown(these, 600)}" if found else "run ./setup.sh"
        raise UserError(f"PyTorch cannot be imported ({type(error).__name__}: {shown(str(error).strip())}); {remedy}") from None


def can_start(threads: int) -> bool:
    """Whether so many threads can be started beside those that run."""
    done = threading.Event()
    started = []
    try:
        for _ in range(threads):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        return False
    finally:
        done.set()
        for thread in started:
            thread.join()
    return True
