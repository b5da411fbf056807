"""What goes wrong in a way that the user can mend: one line, never a traceback.

Every message says what was wrong, the value found, what is allowed and what to do next.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from enum import IntEnum

# Characters of one message; a value echoed in it has far fewer, see `shown`.
MESSAGE_LIMIT = 2000


class ExitCode(IntEnum):
    """What the process returns; scripts and CI rely on these."""

    DONE = 0
    NOT_ALL = 1  # results are incomplete, cases are bad, or a comparison is past its limit
    BAD_INPUT = 2
    MISMATCH = 3  # something else ran than was asked for, or its output is far from fp32
    OUT_OF_MEMORY = 4
    RANK_DIED = 5
    DEFECT = 70  # an error of the benchmark itself
    HUNG_UP = 128 + signal.SIGHUP
    PIPE_CLOSED = 128 + signal.SIGPIPE
    INTERRUPTED = 128 + signal.SIGINT
    TERMINATED = 128 + signal.SIGTERM


class BenchmarkError(Exception):
    """Base of all errors reported in one line; `exit_code` is what the process returns."""

    exit_code: int = ExitCode.NOT_ALL


class UserError(BenchmarkError):
    """Bad input: settings, files or a combination that cannot be run."""

    exit_code = ExitCode.BAD_INPUT


class MismatchError(BenchmarkError):
    """What ran is not what was asked for, or its output disagrees with fp32: no number is reported."""

    exit_code = ExitCode.MISMATCH


class OutOfMemory(BenchmarkError):
    """The device or the host ran out of memory."""

    exit_code = ExitCode.OUT_OF_MEMORY


class UserErrors(UserError):
    """Several bad inputs found in one go, one line each."""

    def __init__(self, messages: list[str]):
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))

    def __reduce__(self) -> tuple[type[UserErrors], tuple[list[str]]]:
        """As it comes out of a worker process."""
        return type(self), (self.messages,)


class Stopped(BaseException):
    """A signal asked the run to end; `name` is the signal's, `exit_code` what a shell expects after it."""

    def __init__(self, number: int):
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


# What the system refuses whatever the benchmark does, and what helps.
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise ulimit -f",
    errno.EROFS: "name another folder",
    errno.EACCES: "change its owner or mode, or name another",
    errno.EPERM: "change its owner or mode, or name another",
    errno.EMFILE: "raise ulimit -n",
    errno.ENFILE: "end other programs",
    errno.EIO: "see what the system's log says of this disk",
    errno.ESTALE: "mount it anew",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "raise ulimit -u or the container's limit of processes",
}


def of_the_system(error: BaseException) -> BenchmarkError | None:
    """The error to tell where memory, disk, files or threads of the machine ran out or are refused; None for any other."""
    if isinstance(error, MemoryError):
        return OutOfMemory(f"out of memory{f' ({shown(error)})' if str(error) else ''}; free some, or give this container more")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return UserError(f"no more threads can be started; lower THREADS or STREAMS, or {REMEDIES[errno.EAGAIN]}")
    if isinstance(error, OSError) and error.errno in REMEDIES:
        what = f"{shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
        return UserError(f"{what}{error.strerror}; {REMEDIES[error.errno]}")
    return None


def shown(value: object, limit: int = 200) -> str:
    """A value as part of a message: one line, nothing in it that a terminal obeys, at most `limit` characters.

    Whatever is not printable is escaped as Python writes it (`\\n`, `\\x1b`, `\\u202e`, a lone surrogate as `\\udcff`).
    What is longer is cut and ends in "…".
    """
    try:
        text = str(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists that hold themselves thousands deep
        text = f"{type(value).__name__} too large to be shown"
    # Cut first: a value of a gigabyte is not escaped for the sake of its first line.
    escaped = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text[: limit + 1]
    )
    return escaped if len(text) <= limit and len(escaped) <= limit else escaped[: limit - 1] + "…"


def messages_of(error: BenchmarkError) -> list[str]:
    """The lines of an error, one for each thing that is wrong."""
    return error.messages if isinstance(error, UserErrors) else [str(error)]


def tell(error: BenchmarkError) -> int:
    """Print an error's lines; returns the exit code."""
    for message in messages_of(error):
        # Whatever a message echoes, it stays one line; who made it has cut the single values.
        print(f"ERROR: {shown(message, MESSAGE_LIMIT)}", file=sys.stderr)
    return error.exit_code
