"""The group of processes that measure together; one process alone is a group of one."""

from __future__ import annotations

from typing import TypeVar

Thing = TypeVar("Thing")


class Solo:
    """A group of one rank: nothing to wait for, nothing to gather."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def gather(self, thing: Thing) -> list[Thing]:
        """Every rank's thing, by rank, on rank 0; an empty list on the others."""
        return [thing]
