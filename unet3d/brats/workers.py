"""Runs one function over many items in processes, with its progress; used wherever cases are prepared."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from unet3d import progress
from unet3d.errors import OutOfMemory

Item = TypeVar("Item")
Made = TypeVar("Made")

# What one case of 240x240x155 with four modalities takes at its peak, in bytes.
MEMORY_PER_CASE = 1_200_000_000


def default_processes(items: int) -> int:
    """As many processes as usable cores, free memory and items allow, at least one."""
    import psutil

    fits_in_memory = psutil.virtual_memory().available // MEMORY_PER_CASE
    return max(1, min(items, len(os.sched_getaffinity(0)), fits_in_memory))


def run(
    function: Callable[[Item], Made], items: Iterable[Item], processes: int | None, description: str
) -> Iterator[tuple[Item, Made]]:
    """Yields (item, function(item)) in the order in which items finish.

    `function` and the items must be picklable. One process means this very process. An error raised by `function`
    stops the run: cases not begun are dropped, those under way finish.
    Raises OutOfMemory when the operating system killed a worker.
    """
    items = list(items)
    processes = min(processes or default_processes(len(items)), len(items))
    with progress.phase(description, len(items), "cases") as phase:
        if processes <= 1:
            for item in items:
                yield item, function(item)
                phase.advance()
            return
        # Not forked: the caller may have started threads (PyTorch, ITK) that a fork would leave locked.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker)
        try:
            futures = {pool.submit(function, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
                phase.advance()
        except BrokenProcessPool:
            raise OutOfMemory(
                f"{description}: a worker process was killed, most likely for lack of memory; "
                f"{processes} processes ran, use fewer (each needs about {MEMORY_PER_CASE / 1e9:.1f} GB)"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent killed outright can't stop its workers, which would wait for work for ever.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
