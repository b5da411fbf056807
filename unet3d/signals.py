"""What SIGINT, SIGTERM and SIGHUP do: end the process at once, or raise `Stopped` where something has to be put in order.

`at_once` takes a process over. In one of somebody else's, which imports the package, signals stay what they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from unet3d.errors import Stopped

# From Linux' <sys/prctl.h>.
PR_SET_PDEATHSIG = 1
# A variable of a process that another one of ours has started: that one's number.
CALLER = "UNET3D_CALLER"

_ours = False  # whether this process is, see `at_once`


def at_once() -> None:
    """This process is ours. From now on a signal ends the process with one line and 128 + its number: there is nothing to lose.

    No exception is raised: one that falls into the import of a library can be swallowed there, or shown as a traceback.
    """
    global _ours
    _ours = True
    _answer(_quit)


def by_exception() -> None:
    """From now on a signal raises `Stopped` in the main thread."""
    _answer(_stop)


def not_at_all() -> None:
    """From now on the process ends by itself, soon."""
    _answer(signal.SIG_IGN)


def name_of(number: int) -> str:
    """A signal's name, such as SIGKILL; those that have none by their number."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """SIGINT and SIGTERM do nothing while the body puts something in order; for the main thread, in anybody's process."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(number: int) -> None:
    """The kernel sends this process a signal when the one that started it ends, however that comes about."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def of_child(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process of ours that this one starts, for its `end_with_caller`."""
    return {**environ, CALLER: str(os.getpid())}


def end_with_caller() -> None:
    """See `end_with_parent`: where a process of ours started this one, this one is asked to stop then, as by a user.

    Where a command stands between the two and goes on beside this process, it is that command's to end it.
    """
    if os.environ.pop(CALLER, None) == str(os.getppid()):
        end_with_parent(signal.SIGTERM)


def end_children() -> None:
    """Kill every process that this one has started, and theirs."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()


def _answer(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    if not _ours:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    # nohup has it ignored, and then the process outlives its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler if handler is not signal.SIG_IGN else _nothing)
    # run_model.sh has them held back while Python starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _nothing(number: int, frame: FrameType | None) -> None:
    """As ignoring, but to be told from what nohup has set."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _quit(number: int, frame: FrameType | None) -> None:
    stop = Stopped(number)
    # Not print: the signal may have interrupted one.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"ERROR: stopped by {stop.name} before anything was measured\n".encode())
    try:
        end_children()
    finally:
        os._exit(stop.exit_code)
