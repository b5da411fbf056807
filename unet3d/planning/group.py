"""The processes that measure together, as each of them sees the others; one process alone is a group of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from unet3d.results.timing import Sample

Thing = TypeVar("Thing")


class Group(Protocol):
    """This process's place among the ranks, and what it shares with them."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def barrier(self) -> None:
        """Wait until every rank is here."""
        ...

    def gather(self, thing: Thing) -> list[Thing]:
        """Every rank's thing, by rank, on rank 0; an empty list on the others."""
        ...

    def working(self, step: str, limited: bool = True) -> None:
        """Say what this rank does next, which also says that it gets on.

        limited: whether RANK_TIMEOUT holds for this step; waiting for others and preprocessing take what they take.
        """
        ...

    def keep(self, sample: Sample) -> None:
        """Keep a sample where it outlives this process."""
        ...


class SingleProcess:
    """A group of one rank: nothing to wait for, nothing to gather, nobody to report to."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    def barrier(self) -> None:
        """Nobody else has to come."""

    def gather(self, thing: Thing) -> list[Thing]:
        """The thing alone."""
        return [thing]

    def working(self, step: str, limited: bool = True) -> None:
        """Nobody watches."""

    def keep(self, sample: Sample) -> None:
        """Its samples are in this process's record."""
