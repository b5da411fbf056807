"""Kernels that a GPU ran, as PyTorch's profiler tells them, and which operator each belongs to.

A kernel that was launched by itself is linked to the operator that launched it. Those of a replayed graph are not; they
are the same ones in the same order, which is checked by their names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Ranges around operators are named so, with the operator's number.
MARK = "unet3d operator "
COPIES = ("Memcpy", "Memset")
# Activities that are no work of a device although they are told as its own.
NO_WORK = ("gpu_user_annotation", "cuda_sync", "overhead")


@dataclass(frozen=True)
class Event:
    """What the profiler saw: `on_device` a kernel or copy, otherwise something on the host. Times in nanoseconds.

    number: of a host's operator, or shared by a kernel and the call that launched it. operator: of the host's operator
    that a kernel was launched by, 0 where there was none.
    """

    name: str
    on_device: bool
    start: int
    duration: int
    number: int
    operator: int


@dataclass(frozen=True)
class Kernel:
    """A kernel or copy; `call` the number of the operator that launched it, None where it is not known."""

    name: str
    ms: float
    call: int | None = None

    @property
    def is_copy(self) -> bool:
        return self.name.startswith(COPIES)


def events(profile: torch.autograd.profiler.profile) -> list[Event]:
    """What a profile that has ended saw."""

    def on_device(event: Any) -> bool:
        return bool(event.device_type().name != "CPU")

    assert profile.kineto_results is not None
    seen: Iterable[Any] = profile.kineto_results.events()
    return [
        Event(
            event.name(),
            on_device(event),
            event.start_ns(),
            event.duration_ns(),
            event.correlation_id(),
            event.linked_correlation_id(),
        )
        for event in seen
        # torch 2.6 does not tell the kind of activity.
        if getattr(event, "activity_type", str)() not in NO_WORK and not (event.is_user_annotation() and on_device(event))
    ]


def launched(seen: Sequence[Event]) -> list[Kernel]:
    """The kernels in order of execution, with the operators around whose launches there are ranges named MARK."""
    marks = sorted((e.start, e.start + e.duration, e.name) for e in seen if e.name.startswith(MARK) and not e.on_device)
    starts = [start for start, _, _ in marks]

    def call_at(time: int | None) -> int | None:
        place = bisect_right(starts, time) - 1 if time is not None else -1
        return int(marks[place][2].removeprefix(MARK)) if place >= 0 and time is not None and time <= marks[place][1] else None

    host = [event for event in seen if not event.on_device]
    launches = {event.number: event.start for event in host if _is_launch(event.name)}
    operators = {event.number: event.start for event in host if not _is_launch(event.name)}
    kernels = sorted(
        (event for event in seen if event.on_device and not event.name.startswith(MARK)), key=lambda event: event.start
    )
    made = []
    for kernel in kernels:
        call = call_at(operators.get(kernel.operator)) if kernel.operator else None
        made.append(Kernel(kernel.name, kernel.duration / 1e6, call_at(launches.get(kernel.number)) if call is None else call))
    return made


def _is_launch(name: str) -> bool:
    """Whether this is a call of a driver or runtime: cudaLaunchKernel, cuLaunchKernelEx, urEnqueueKernelLaunch, zeCommand…"""
    return name.startswith(("cu", "hip", "ur", "ze")) and "::" not in name


def matched(replayed: Sequence[Kernel], named: Sequence[Kernel]) -> tuple[list[Kernel], str]:
    """The kernels of a call with the operators of the same network's whose kernels were launched one by one.

    Copies before and after the network's own kernels may differ: a graph reads its input from a place of its own. Returns
    the kernels, and what is wrong where the others are not the same ones in the same order: then no operator is given.
    """
    for same in (lambda kernel: True, lambda kernel: not kernel.is_copy):
        wanted = [kernel for kernel in _without_outer_copies(named) if same(kernel)]
        places = [place for place, kernel in enumerate(replayed) if same(kernel)]
        found = _find([kernel.name for kernel in wanted], [replayed[place].name for place in places])
        if wanted and found is not None:
            calls = dict(zip(places[found : found + len(wanted)], (kernel.call for kernel in wanted), strict=True))
            return [_with(kernel, place, calls) for place, kernel in enumerate(replayed)], ""
    ours, theirs = ([k for k in _without_outer_copies(kernels) if not k.is_copy] for kernels in (replayed, named))
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a.name != b.name), None)
    where = ""
    if first is not None:
        where = f"; number {first + 1} is {ours[first].name[:60]}, launched by itself {theirs[first].name[:60]}"
    return [Kernel(kernel.name, kernel.ms) for kernel in replayed], (
        f"the call's {len(ours)} kernels are not the {len(theirs)} of the network launched one by one{where}"
    )


def _without_outer_copies(kernels: Sequence[Kernel]) -> list[Kernel]:
    own = [place for place, kernel in enumerate(kernels) if not kernel.is_copy]
    return list(kernels[own[0] : own[-1] + 1]) if own else []


def _find(wanted: Sequence[str], among: Sequence[str]) -> int | None:
    """Where all of these follow each other."""
    return next((i for i in range(len(among) - len(wanted) + 1) if among[i : i + len(wanted)] == wanted), None)


def _with(kernel: Kernel, place: int, calls: dict[int, int | None]) -> Kernel:
    """The kernel with its operator; a copy that was left out has that of its neighbours where they share one."""
    if place in calls:
        return Kernel(kernel.name, kernel.ms, calls[place])
    before = max((other for other in calls if other < place), default=None)
    after = min((other for other in calls if other > place), default=None)
    shared = before is not None and after is not None and calls[before] == calls[after]
    return Kernel(kernel.name, kernel.ms, calls[before] if shared and before is not None else None)
