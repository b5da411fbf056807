"""Which results a command line names: one by one, in folders, and those that come with the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unet3d.commands.compare import machines, reference, runs
from unet3d.commands.compare.runs import Side
from unet3d.errors import UserError, shown


@dataclass(frozen=True)
class Found:
    """`base`: what the others are compared with, None where nothing was asked for. `own`: which of `sides` are the user's
    beside committed ones. `notes`: what is to be said of the choice.
    """

    sides: list[Side]
    base: Side | None = None
    own: list[Side] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def split(self) -> tuple[Side, list[Side]]:
        """The base, otherwise the first, and the others."""
        base = self.base or self.sides[0]
        return base, [side for side in self.sides if side is not base]


def named(arguments: Sequence[str], against: str | None) -> Found:
    """The sides that arguments name, and `against` among them.

    Raises:
        UserError: when one cannot be read, or fewer than two are named.
    """
    sides, notes = _collect(arguments)
    base = _among(sides, against) if against else None
    if len(sides) < 2:
        raise UserError(
            f"compare: {len(sides)} results are named; name two or more, or a folder of them: ./run_model.sh compare A B"
        )
    return Found(sides, base, notes=notes)


def with_reference(arguments: Sequence[str], against: str | None) -> Found:
    """The committed results and the user's own, compared with the nearest machine's unless `against` names another.

    Raises:
        UserError: when one cannot be read or none is committed.
    """
    committed = reference.sides()
    if not committed:
        raise UserError(
            "compare reference: no results come with this benchmark yet; benchmarks/results/README.md says how one is added"
        )
    own, notes = _collect(arguments)
    base, theirs = None, [machines.of(side.docs[0]) for side in committed]
    for side in own:
        here = machines.of(side.docs[-1])
        there = theirs[machines.nearest(here, theirs)]
        notes.append(f"nearest machine to {side.name}: {there.label} ({machines.likeness(here, there)})")
        candidates = [other for other, machine in zip(committed, theirs, strict=True) if machine.label == there.label]
        base = base or _most_like(side, candidates)
    sides = [*committed, *own]
    return Found(sides, _among(sides, against) if against else base, own, notes)


def _most_like(side: Side, candidates: Sequence[Side]) -> Side | None:
    """Of the same workload the one that ran most like the side, None where no workload is the same."""

    def unlike(other: Side) -> tuple[bool, bool, float]:
        here, there = side.docs[-1], other.docs[-1]
        engines = [str(doc["effective"].get("engine")).partition(" ")[0] for doc in (here, there)]
        precisions = [doc["effective"].get("precision") for doc in (here, there)]
        return precisions[0] != precisions[1], engines[0] != engines[1], -other.value("throughput")

    return min((other for other in candidates if not runs.not_comparable(other, side)), key=unlike, default=None)


def _collect(arguments: Sequence[str]) -> tuple[list[Side], list[str]]:
    sides: list[Side] = []
    notes: list[str] = []
    for argument in arguments:
        found, left_out = runs.collect(argument)
        sides += found
        notes += [f"left out: {line}" for line in left_out]
    return sides, notes


def _among(sides: list[Side], against: str) -> Side:
    """The side that `against` names, which joins the others where it is none of them."""
    for side in sides:
        if against in (side.name, side.name.removeprefix(f"{reference.WORD}/")):
            return side
    asked = runs.read(against)
    for side in sides:
        if side.files == asked.files:
            return side
    if len(asked.docs) > 1 and any(set(side.files) & set(asked.files) for side in sides):
        raise UserError(f"--against: {shown(against)} names runs that are compared as single ones too; name them once")
    sides.append(asked)
    return asked
