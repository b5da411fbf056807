"""Runs one function over many items in processes, with its progress; used wherever cases are prepared.

Each worker has a pipe of its own, so that it is known what a worker that ends has worked on: it costs that item only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Generic, TypeVar, cast

from unet3d import progress, signals
from unet3d.devices import host
from unet3d.errors import OutOfMemory, shown

Item = TypeVar("Item")
Made = TypeVar("Made")

# What one case of 240x240x155 with four modalities takes at its peak, in bytes.
MEMORY_PER_CASE = 1_200_000_000
# Work in the process that asks for it, which an item that crashes takes with it.
HERE = 0


@dataclass(frozen=True)
class Crash:
    """In the place of a result: the worker crashed. `reason` says how, such as "SIGABRT"."""

    reason: str


def default_processes(items: int) -> int:
    """As many processes as usable CPUs, free memory and items allow, at least one."""
    return max(1, min(items, host.usable_cpus(), host.available_memory() // MEMORY_PER_CASE))


def run(
    function: Callable[[Item], Made],
    items: Iterable[Item],
    processes: int | None,
    description: str,
    log: Path | None = None,
) -> Iterator[tuple[Item, Made | Crash]]:
    """Yields (item, function(item)) in the order in which items finish; Crash for an item whose worker crashed.

    `function` and the items must be picklable. processes: None for `default_processes`, HERE for none beside this one.
    log: the file to which goes what libraries print; it is there only if they do.
    An error raised by `function` stops the run: items not begun are dropped, those under way finish.
    Raises OutOfMemory at the end, when the operating system killed workers; all other items are done then.
    """
    items = list(items)
    with progress.phase(description, len(items), "cases") as phase:
        if processes == HERE:
            for item in items:
                yield item, function(item)
                phase.advance()
            return
        pool = _Pool(function, items, min(processes or default_processes(len(items)), len(items)), log)
        try:
            for item, made in pool.results():
                yield item, made
                phase.advance()
        finally:
            pool.end()
    if pool.killed:
        names = ", ".join(str(getattr(item, "name", item)) for item in pool.killed)
        raise OutOfMemory(
            f"{description}: a worker process was killed, most likely for lack of memory, while it worked on {shown(names)}; "
            f"{pool.most} processes ran, use fewer (each needs about {MEMORY_PER_CASE / 1e9:.1f} GB)"
        )


class _Pool(Generic[Item, Made]):
    """Workers, and the items that wait for them.

    most: processes at a time. killed: items whose worker was killed; each of them costs a process, down to one.
    """

    def __init__(self, function: Callable[[Item], Made], items: list[Item], most: int, log: Path | None):
        self.most, self.killed = most, list[Item]()
        self._function, self._log = function, log
        self._waiting = items[::-1]
        self._processes: dict[Connection, SpawnProcess] = {}
        self._under_way: dict[Connection, Item] = {}
        # Not forked: the caller may have started threads (PyTorch, ITK) that a fork would leave locked.
        self._context = multiprocessing.get_context("spawn")

    def results(self) -> Iterator[tuple[Item, Made | Crash]]:
        """Each item with what was made of it, or how its worker crashed; raises what `function` raised first."""
        error: BaseException | None = None
        while self._under_way or (self._waiting and error is None):
            if error is None:
                self._hand_out()
            for pipe in wait(list(self._under_way)):
                pipe = cast(Connection, pipe)
                item = self._under_way.pop(pipe)
                try:
                    made, raised = pipe.recv()
                except (EOFError, OSError):
                    reason = self._bury(pipe)
                    if reason == signal.SIGKILL.name:
                        self.killed.append(item)
                    else:
                        yield item, Crash(reason)
                    continue
                if raised is None:
                    yield item, made
                error = error or raised
        if error is not None:
            raise error

    def end(self) -> None:
        """Wait for the workers, which finish what they are at."""
        for pipe in self._processes:
            pipe.close()
        for process in self._processes.values():
            process.join()
        if self._log is not None:
            with contextlib.suppress(FileNotFoundError):
                if not self._log.stat().st_size:
                    self._log.unlink()

    def _hand_out(self) -> None:
        while self._waiting and len(self._under_way) < max(1, self.most - len(self.killed)):
            pipe = next((pipe for pipe in self._processes if pipe not in self._under_way), None) or self._start()
            try:
                pipe.send(self._waiting[-1])
            except OSError:
                self._bury(pipe)  # it was ended while it waited for work
                continue
            self._under_way[pipe] = self._waiting.pop()

    def _start(self) -> Connection:
        pipe, other = self._context.Pipe()
        process = self._context.Process(target=_work, args=(other, self._function, self._log), daemon=True)
        # It ignores Ctrl-C, but not before its imports are done: until then it is held back.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        other.close()  # held by the worker alone, so that its end is the pipe's
        self._processes[pipe] = process
        return pipe

    def _bury(self, pipe: Connection) -> str:
        """How a worker ended: the name of a signal, or its exit code."""
        pipe.close()
        process = self._processes.pop(pipe)
        process.join()
        code = process.exitcode or 0
        return signals.name_of(-code) if code < 0 else f"exit code {code}"


def _work(pipe: Connection, function: Callable[[Item], Made], log: Path | None) -> None:
    """The life of a worker: an item in, (what was made of it, None) or (None, the error) out."""
    # Ctrl-C reaches the whole process group; the parent alone decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent killed outright can't stop its workers, which would wait for work for ever.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if log is not None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
    # The parent closes the pipe where there is no more to do, or where it has stopped to listen.
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            item = pipe.recv()
            made, raised = None, None
            try:
                made = function(item)
            except Exception as error:  # noqa: BLE001 - raised by the parent
                error.add_note("".join(traceback.format_exception(error)))
                raised = error
            pipe.send((made, raised))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
