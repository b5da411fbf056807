"""PyTorch's profiler with nothing of its own on the user's screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def recording(device_kind: str | None = None, shapes: bool = False) -> Iterator[torch.profiler.profile]:
    """Record what PyTorch does inside, on this kind of accelerator too. shapes: of the operators' inputs as well."""
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU]
    if device_kind is not None:
        activities.append(getattr(torch.profiler.ProfilerActivity, device_kind.upper()))
    # There is one cycle of events. Releases of PyTorch warn that those of earlier ones are dropped unless told to keep them.
    with torch.profiler.profile(activities=activities, record_shapes=shapes, acc_events=True) as profile:
        yield profile


def begin(device_kind: str | None = None) -> None:
    """Set the profiler up. On another thread than the main one it complains, and the kernels of a graph that was recorded
    before are not surely told."""
    with recording(device_kind):
        pass
