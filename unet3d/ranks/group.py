"""The ranks that torchrun has started, as a group (see `unet3d.planning.group`)."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from unet3d.ranks.spool import Writer
    from unet3d.results.timing import Sample

Thing = TypeVar("Thing")

# Ranks may wait long for one that preprocesses; who hangs is found by the steps that each rank reports.
FOR_EVER = timedelta(days=30)


class PeerLost(Exception):
    """Another rank went away while this one waited for it."""


class TorchrunGroup:
    """The ranks that torchrun has started, joined by gloo. No tensor of the network crosses ranks."""

    def __init__(self, spool: Writer):
        """Meets the others; the place in the group comes from the variables that torchrun sets."""
        import torch.distributed as dist

        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self._dist, self._spool, self._step = dist, spool, ("beginning", True)
        self._together(lambda: dist.init_process_group("gloo", timeout=FOR_EVER))

    def barrier(self) -> None:
        self._together(self._dist.barrier)

    def gather(self, thing: Thing) -> list[Thing]:
        gathered: list | None = [None] * self.size if self.rank == 0 else None
        self._together(lambda: self._dist.gather_object(thing, gathered))
        return gathered or []

    def working(self, step: str, limited: bool = True) -> None:
        self._step = (step, limited)
        self._spool.step(step, limited)

    def keep(self, sample: Sample) -> None:
        self._spool.sample(sample)

    def leave(self) -> None:
        """End the group; every rank has to."""
        self._dist.destroy_process_group()

    def _together(self, work) -> None:
        self._spool.step("waiting for the other ranks", False)
        try:
            work()
        except RuntimeError as error:
            raise PeerLost(str(error).strip().partition("\n")[0]) from error
        self._spool.step(*self._step)
