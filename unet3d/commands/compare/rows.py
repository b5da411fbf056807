"""Many results as rows: their figures, their order, how each stands to one of them or to its predecessor."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from unet3d.commands.compare import machines, measure, runs
from unet3d.commands.compare.machines import Machine
from unet3d.commands.compare.runs import Side
from unet3d.results.bootstrap import Ratio
from unet3d.results.schema import Results, Value

# Settings that two runs of one history may differ in: how long was measured and what was noted.
NOT_A_SERIES = (
    "num_iterations",
    "warm_up",
    "compliance",
    "telemetry",
    "profile",
    "weights",
    "dataset_dir",
    "preprocessed_dir",
    "min_duration",
)
# Facts that are named first where there is little room.
FIRST = (
    "settings.",
    "ran.precision",
    "ran.engine",
    "software.torch",
    "benchmark.git_commit",
    "machine.cpu",
    "machine.device",
    "machine.driver",
    "machine.usable_cores",
)
# Facts that follow from others or tell machines apart without an effect of their own.
LEFT_OUT = ("machine.host", "ran.details.", "benchmark.git_dirty")

ENOUGH = 3  # runs that tell how much runs differ


@dataclass
class Row:
    """One result. `place`: by throughput among those of the same workload, None with `problems` that say why."""

    name: str
    side: Side
    own: bool = False
    place: int | None = None
    problems: list[str] = field(default_factory=list)
    ratios: Mapping[str, Ratio] | None = None
    against: str | None = None
    differs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def doc(self) -> Results:
        """Of several runs the last one, for everything but figures."""
        return self.side.docs[-1]

    @functools.cached_property
    def machine(self) -> Machine:
        return machines.of(self.doc)

    @functools.cached_property
    def values(self) -> dict[str, Value]:
        """Every figure and label under the names of CSV and JSON; None where the result has no such."""
        doc, machine = self.doc, self.machine
        effective, benchmark = cast(Mapping[str, Value], doc["effective"]), cast(Mapping[str, Value], doc["benchmark"])
        requested = doc["settings"]["requested"]
        versions = cast(Mapping[str, Value], doc["environment"].get("versions") or {})
        joules, counter = energy(self.side.docs)
        peak = doc["memory"].get("peak_device_bytes") or doc["memory"].get("peak_host_bytes")
        return {
            "result": self.name,
            "machine": machine.label,
            "platform": machine.platform,
            "engine": effective.get("engine"),
            "precision": effective.get("precision") or requested.get("precision"),
            "jit": effective.get("jit"),
            "network": effective.get("network"),
            "batch_size": requested.get("batch_size"),
            "streams": requested.get("streams"),
            "throughput": self.side.value("throughput"),
            "throughput_with_overhead": self.side.value("throughput_with_overhead"),
            "latency_mean_ms": self.side.value("mean"),
            "latency_p90_ms": self.side.value("p90"),
            "joules_per_volume": joules,
            "energy_counter": counter,
            "dice": dice(doc),
            "weights": doc["weights"].get("kind"),
            "peak_memory_gib": None if peak is None else peak / 2**30,
            "runs": len(self.side.docs),
            "calls": self.side.calls,
            "date": str(doc["started"])[:10],
            "commit": benchmark.get("git_commit"),
            "commit_dirty": benchmark.get("git_dirty"),
            "version": benchmark.get("version"),
            "torch": versions.get("torch"),
            "driver": driver(doc),
            "warnings": ", ".join(dict.fromkeys(str(item["name"]) for doc in self.side.docs for item in doc["warnings"])),
        }


def energy(documents: Sequence[Results]) -> tuple[float | None, str | None]:
    """Joules per volume, the mean over runs of one platform, and their counter: the device's own, NVML or RAPL."""
    found: dict[str, list[float]] = {}
    for doc in documents:
        telemetry = doc.get("telemetry")
        told = telemetry["energy"] if telemetry else None
        for name, value in (told["joules_per_volume"] if told else {}).items():
            found.setdefault(name, []).append(value)
    if not found:
        return None, None
    on_cpu = machines.of(documents[0]).platform == "CPU"
    chosen = next((name for name in found if ("RAPL" in name.upper()) == on_cpu), None)
    if chosen is None:
        return None, None
    return sum(found[chosen]) / len(found[chosen]), chosen


def dice(doc: Results) -> float | None:
    """Mean Dice of the three regions where cases were scored."""
    return doc["accuracy"]["total"] if doc["accuracy"] else None


def driver(doc: Results) -> str | None:
    """Version of the device's driver, where the results name one."""
    return doc["environment"].get("hardware", {}).get("driver")


def ranked(sides: Sequence[Side], base: Side | None, anyway: bool) -> list[Row]:
    """Rows by throughput, those that must not be compared with the others after them.

    base: the side whose workload counts; None: the workload that most sides have.
    """
    rows = [Row(name, side) for name, side in zip(names(sides), sides, strict=True)]
    reference = base or _usual(sides)
    for row in rows:
        row.problems = runs.not_comparable(reference, row.side)
    comparable = sorted((row for row in rows if anyway or not row.problems), key=lambda row: -row.side.value("throughput"))
    for place, row in enumerate(comparable, start=1):
        row.place = place
    rest = sorted((row for row in rows if row.place is None), key=lambda row: -row.side.value("throughput"))
    return comparable + rest


def stand_against(rows: Sequence[Row], base: Row) -> None:
    """Give every ranked row its ratios to the base, which is one of them."""
    for row in rows:
        if row is not base and row.place is not None and base.place is not None:
            row.ratios, row.against = measure.ratios(base.side, row.side), base.name


def history(sides: Sequence[Side]) -> list[Row]:
    """Rows by machine and date, each with its ratios to the one before it of the same machine, workload and settings.

    ENOUGH runs with all facts the same count as repeats of one row, so that its interval holds how much runs differ; fewer
    say nothing of that.
    """
    repeats: dict[tuple[object, ...], list[Results]] = {}
    for side in sides:
        for doc in side.docs:
            repeats.setdefault((_series(doc), *sorted(runs.facts(doc).items())), []).append(doc)
    named = {id(doc): name for name, side in zip(names(sides), sides, strict=True) for doc in side.docs}
    rows, before = [], dict[object, Row]()
    grouped = [
        group
        for docs in repeats.values()
        for group in ([sorted(docs, key=lambda doc: str(doc["started"]))] if len(docs) >= ENOUGH else [[doc] for doc in docs])
    ]
    for docs in sorted(grouped, key=lambda docs: (_series(docs[0]), str(docs[0]["started"]))):
        more = f" and {len(docs) - 1} more" if len(docs) > 1 else ""
        row = Row(named[id(docs[0])] + more, Side(named[id(docs[0])] + more, docs))
        row.problems = [f"incomplete ({doc.get('incomplete_reason')})" for doc in docs if not doc.get("complete")]
        rows.append(row)
        if row.problems:
            continue
        key = _series(docs[0])
        if key in before:
            row.ratios, row.against = measure.ratios(before[key].side, row.side), before[key].name
            row.differs = _differing(before[key], row)
        before[key] = row
    return rows


def namesakes(rows: Sequence[Row]) -> list[str]:
    """Labels that several machines have among the rows."""
    named: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        named.setdefault(row.machine.label, set()).add(row.machine.identity)
    return [label for label, identities in named.items() if len(identities) > 1]


def regression(row: Row) -> bool | None:
    """Whether a row's throughput is lower than that of what it stands against, beyond noise; True, False for higher."""
    ratio = row.ratios["throughput"] if row.ratios else None
    return None if ratio is None or not ratio.beyond_noise else ratio.value < 1


def note_differences(rows: Sequence[Row], base: Row) -> None:
    """Give every row the facts in which it differs from the base."""
    for row in rows:
        if row is not base:
            row.differs = _differing(base, row)


def _differing(base: Row, row: Row) -> list[tuple[str, str]]:
    found = [
        (name, values[1])
        for name, values in runs.differing([base.side, row.side])
        if not name.startswith(LEFT_OUT) and values[0] != values[1]
    ]
    return sorted(found, key=lambda fact: next((place for place, start in enumerate(FIRST) if fact[0].startswith(start)), 99))


def names(sides: Sequence[Side]) -> list[str]:
    """The sides' names without what all of them begin with."""
    parts = [[part for part in side.name.split(",")[0].removesuffix("/results.json").split("/") if part] for side in sides]
    shared = 0
    while len(parts) > 1 and all(len(words) > shared + 1 and words[shared] == parts[0][shared] for words in parts):
        shared += 1
    more = [side.name.count(",") if len(side.docs) > 1 else 0 for side in sides]
    return [
        "/".join(words[shared:]) + (f" and {count} more" if count else "") for words, count in zip(parts, more, strict=True)
    ]


def _usual(sides: Sequence[Side]) -> Side:
    """A complete side of the workload that most have, the first of them."""
    complete = [side for side in sides if all(doc.get("complete") for doc in side.docs)] or list(sides)
    keys = [str(runs.identity(side.docs[0])) for side in complete]
    [(usual, _)] = Counter(keys).most_common(1)
    return complete[keys.index(usual)]


def _series(doc: Results) -> tuple[str, ...]:
    """What stays the same over a history: machine, workload, settings and the kind of engine; no version."""
    requested = doc["settings"]["requested"]
    effective = cast(Mapping[str, Value], doc["effective"])
    settings = sorted(f"{name}={value}" for name, value in requested.items() if name not in (*NOT_A_SERIES, *runs.UNIMPORTANT))
    ran = [str(effective.get(name)) for name in ("precision", "jit", "network")]
    engine = str(effective.get("engine")).partition(" ")[0]
    return (*machines.of(doc).identity, str(runs.identity(doc)), engine, *ran, *settings)
