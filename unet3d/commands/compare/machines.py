"""Which machine a result is of, and which of several machines is the nearest to it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unet3d.results.schema import Results, rank_count

# What decides how fast a CPU's products are, the strongest first.
INSTRUCTIONS = (("AMX", "amx"), ("AVX512-BF16", "avx512_bf16"), ("AVX-512", "avx512f"), ("AVX2", "avx2"))


@dataclass(frozen=True)
class Machine:
    """`name`: of the CPU, or of the GPU that ran; `instructions`, `cores` and `memory_gib` of the host.

    `host`: its name; None where it is not told, and in a container, which has another name each time.
    """

    platform: str
    name: str
    instructions: str | None
    cores: int | None
    memory_gib: float | None
    devices: int
    host: str | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """What results of one machine share whatever software it has; a part that is not known is empty.

        Of the memory two digits count: each kernel keeps some of it for itself.
        """
        memory = "" if self.memory_gib is None else f"{self.memory_gib:.2g}"
        return (self.label, self.host or "", self.instructions or "", memory)

    @property
    def label(self) -> str:
        """Name with the number of devices or cores, for readers."""
        if self.platform != "CPU":
            return f"{self.devices} × {self.name}" if self.devices > 1 else self.name
        cores = f"{self.cores:g} core{'s' if self.cores != 1 else ''}" if self.cores else None
        return ", ".join(part for part in (self.name, cores) if part)


def of(doc: Results) -> Machine:
    """The machine that a result is of."""
    hardware = doc["environment"].get("hardware", {})
    platform = doc["settings"]["requested"]["platform"]
    ran = doc["effective"].get("device")
    cpu = platform == "CPU" or str(ran).casefold() == "cpu"
    device = hardware.get("device") or ran  # what ran may be named as PyTorch does, such as cuda:0
    known, memory = hardware.get("instructions", []), hardware.get("memory_bytes")
    return Machine(
        platform,
        str(hardware.get("cpu") or "CPU") if cpu else str(device or platform),
        next((name for name, start in INSTRUCTIONS if any(flag.startswith(start) for flag in known)), None),
        hardware.get("usable_cores"),
        None if memory is None else memory / 2**30,
        rank_count(doc["ranks"], doc["samples"]["rank"]),
        None if hardware.get("container") else hardware.get("host"),
    )


def distance(here: Machine, there: Machine) -> float:
    """How far two machines are apart; 0 for the same. Only its order means something.

    Another platform is farther than anything else. On a GPU its name decides; on a CPU name, instructions, cores (a doubling
    counts 1) and memory (a doubling counts a half).
    """
    ours, theirs = _words(here.name), _words(there.name)
    names = 1 - len(ours & theirs) / max(1, len(ours | theirs))
    if here.platform != there.platform:
        return 100 + names
    if here.platform != "CPU":
        return 10 * names + _doublings(here.devices, there.devices)
    levels = [name for name, _ in INSTRUCTIONS]
    steps = [levels.index(machine.instructions) if machine.instructions else len(levels) for machine in (here, there)]
    return (
        3 * names
        + 2 * abs(steps[0] - steps[1])
        + _doublings(here.cores, there.cores)
        + _doublings(here.memory_gib, there.memory_gib) / 2
    )


def nearest(here: Machine, others: Sequence[Machine]) -> int:
    """Place of the nearest of at least one other machine."""
    return min(range(len(others)), key=lambda place: distance(here, others[place]))


def likeness(here: Machine, there: Machine) -> str:
    """In what two machines are the same and in what not, as a text."""
    parts = ["the same model" if here.name == there.name else f"another model than {here.name}"]
    if here.platform != there.platform:
        parts.append(f"platform {there.platform}, here {here.platform}")
    if here.platform == there.platform == "CPU":
        for what, ours, theirs in (
            ("instructions", here.instructions or "none of AVX", there.instructions or "none of AVX"),
            ("cores", _shown(here.cores), _shown(there.cores)),
            ("GiB of memory", _shown(here.memory_gib), _shown(there.memory_gib)),
        ):
            parts.append(f"{what}: {theirs} as here" if ours == theirs else f"{what}: {theirs}, here {ours}")
    return "; ".join(parts)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.casefold()))


def _doublings(ours: float | None, theirs: float | None) -> float:
    return abs(math.log2(ours / theirs)) if ours and theirs and ours > 0 and theirs > 0 else 1.0
