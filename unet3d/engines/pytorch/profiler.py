"""PyTorch's profiler with nothing of its own on the user's screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def recording(device_kind: str | None = None, shapes: bool = False) -> Iterator[torch.autograd.profiler.profile]:
    """Record what PyTorch does inside, on this kind of accelerator too. shapes: of the operators' inputs as well.

    torch.profiler's class does the same through this one, and imports all of torch.compile for it: 150 MiB of memory.
    """
    import torch

    with torch.autograd.profiler.profile(use_device=device_kind, record_shapes=shapes, use_kineto=True) as profile:
        yield profile


def begin(device_kind: str | None = None) -> None:
    """Set the profiler up. On another thread than the main one it complains, and the kernels of a graph that was recorded
    before are not surely told."""
    with recording(device_kind):
        pass
