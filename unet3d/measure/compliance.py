"""MLPerf's compliance checks where they make sense here: that the speed is of real inferences with right answers.

- TEST01: labels that timed calls gave are those of calls made for accuracy, and with a data set their Dice is too,
- TEST04: the same volume again and again takes as long as different ones, each of which has an output of its own,
- TEST05: volumes of other seeds, or cases in another order, take as long as those of the run.

TEST01 is of the run's own calls, whether our loop or LoadGen paced them. The calls of the others are made after them by our
loop, with the run's engine, batch and streams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any

import numpy as np

from unet3d.brats.volumes import CaseVolumes, RandomVolumes
from unet3d.config.values import Settings
from unet3d.engines.base import Engine
from unet3d.errors import MismatchError
from unet3d.measure.accuracy import Cases, Predictions
from unet3d.measure.loop import spread
from unet3d.measure.pipeline import timed_call
from unet3d.measure.prepare import Input
from unet3d.results.bootstrap import ratio_of_rounds
from unet3d.results.console import Console
from unet3d.results.facts import Dice
from unet3d.results.record import Section
from unet3d.results.timing import Sample
from unet3d.workload import REGIONS

KEPT = 4  # timed calls whose labels are kept
ROUNDS, CALLS = 3, 3  # of the same and of different volumes in turn; calls of each stream in one
SEEDS = 3  # other ones
# Least share of voxels with the same label, largest difference of Dice, largest relative difference of latencies.
LABELS, DICE, SPEED = 0.999, 1e-3, 0.10


@dataclass(frozen=True)
class Outcome:
    """What a check found, in words and in the figures that decide."""

    name: str
    passed: bool
    found: str
    figures: dict[str, float | None]

    @property
    def line(self) -> str:
        return f"{self.name} {'PASSED' if self.passed else 'FAILED'}: {self.found}"


@dataclass
class Kept:
    """Labels of some timed calls, chosen before the run begins. It is shown every call, from several threads."""

    calls: int  # that the run has at least
    seed: int
    batches: list[tuple[Callable[[], np.ndarray], tuple[str, ...], np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self._chosen = set(rng.choice(self.calls, min(KEPT, self.calls), replace=False).tolist())
        self._numbers, self._lock = count(), threading.Lock()

    def look(self, volumes: Callable[[], np.ndarray], cases: tuple[str, ...], labels: Callable[[], np.ndarray]) -> None:
        """See `unet3d.measure.loop.Look`."""
        with self._lock:
            chosen = next(self._numbers) in self._chosen
        if chosen:
            self.batches.append((volumes, cases, labels()))


def check(
    settings: Settings, engine: Engine, given: Input, kept: Kept, samples: Sequence[Sample], dice: Dice | None, out: Console
) -> Section:
    """Carry out the checks after the timed calls, tell each one's outcome; returns them as results.json has them.

    samples: of the timed calls. dice: of the accuracy run, where there is a data set.
    """
    outcomes = []
    for test in (
        lambda: own_outputs(engine, given.cases, kept, dice),
        lambda: no_caching(settings, engine, given.volumes.batch(0)),
        lambda: other_seeds(settings, engine, given, [sample.latency for sample in samples]),
    ):
        with out.phase("checking compliance"):
            outcomes.append(test())
        out.info(f"compliance {outcomes[-1].line}")
    return {"passed": all(outcome.passed for outcome in outcomes), "tests": [asdict(outcome) for outcome in outcomes]}


def must_pass(section: Section) -> None:
    """
    Raises:
        MismatchError: naming the checks that failed.
    """
    failed = [f"{test['name']} FAILED: {test['found']}" for test in section["tests"] if not test["passed"]]
    if failed:
        raise MismatchError(f"compliance: {'; '.join(failed)}. The run's figures do not count; see compliance in results.json")


def own_outputs(engine: Engine, cases: Cases | None, kept: Kept, dice: Dice | None) -> Outcome:
    """TEST01: labels of timed calls against those of new calls, and their Dice against the accuracy run's."""
    agreements, differences = [], []
    for volumes, names, labels in kept.batches:
        expected = engine.labels(engine.infer(engine.stage(volumes())))
        agreements.append(float(np.mean(labels == expected)) if labels.shape == expected.shape else 0.0)
        if cases is not None and dice is not None:
            differences += [_dice_difference(cases, dice, name, one) for name, one in zip(names, labels, strict=False)]
    worst, apart = min(agreements, default=0.0), max(differences, default=None)
    least = f"(at least {LABELS:.1%})"
    found = f"labels of {len(agreements)} timed calls agree with an accuracy run's in {worst:.3%} of voxels {least}"
    if apart is not None:
        found += f", their Dice differs by {apart:.2g} (at most {DICE:g})"
    passed = worst >= LABELS and (apart is None or apart <= DICE)
    return Outcome("TEST01", passed, found, {"calls": len(agreements), "label_agreement": worst, "dice_difference": apart})


def _dice_difference(cases: Cases, dice: Dice, name: str, labels: np.ndarray) -> float:
    """The largest of a case's regions; 1 where one of the two is undefined."""
    scored = Predictions()
    scored.add(cases.by_name[name], cases.store.load(name).properties, labels, None)
    own, theirs = scored.scores[name], dice.cases[name]
    return max(_apart(own[region], theirs[region]) for region in REGIONS)


def _apart(first: float | None, second: float | None) -> float:
    if first is None or second is None:
        return float((first is None) != (second is None))
    return abs(first - second)


def no_caching(settings: Settings, engine: Engine, volumes: np.ndarray) -> Outcome:
    """TEST04: blocks of calls with the same volumes [N, 4, z, y, x] and of calls with ones never seen before, in turn."""
    outputs: list[str] = []
    again, others = (np.array(volumes) for _ in count()), _moved(volumes)
    same, different = [], []
    for _ in range(ROUNDS):
        same.append(_latencies(settings, engine, again, lambda output: _digest(engine, output)))
        different.append(_latencies(settings, engine, others, lambda output: outputs.append(_digest(engine, output))))
    ratio = ratio_of_rounds(same, different)
    distinct = len(set(outputs))
    found = (
        f"the same volume takes {_milliseconds(same):.2f} ms, different ones {_milliseconds(different):.2f} ms, "
        f"{_told(ratio.value, ratio.low, ratio.high)}; {distinct} of {len(outputs)} outputs differ"
    )
    passed = _agree(ratio.value, ratio.low, ratio.high) and distinct == len(outputs)
    figures = {
        "same_ms": _milliseconds(same),
        "different_ms": _milliseconds(different),
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "different_volumes": len(outputs),
        "different_outputs": distinct,
    }
    return Outcome("TEST04", passed, found, figures)


def other_seeds(settings: Settings, engine: Engine, given: Input, seconds: Sequence[float]) -> Outcome:
    """TEST05: calls with volumes of other seeds against the run's own latencies."""
    timed = []
    for seed in range(settings.seed + 1, settings.seed + 1 + SEEDS):
        volumes = _of_seed(settings, given, seed)
        timed.append(_latencies(settings, engine, map(volumes.batch, count()), engine.labels))
    others = [latency for block in timed for latency in block]
    ratio = ratio_of_rounds([seconds], [others])
    what = "other seeds" if given.cases is None else "other orders of the cases"
    found = (
        f"calls of {SEEDS} {what} take {_milliseconds(timed):.2f} ms, the run's {_milliseconds([seconds]):.2f} ms, "
        f"{_told(ratio.value, ratio.low, ratio.high)}"
    )
    figures = {
        "run_ms": _milliseconds([seconds]),
        "others_ms": _milliseconds(timed),
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
    }
    return Outcome("TEST05", _agree(ratio.value, ratio.low, ratio.high), found, figures)


def _of_seed(settings: Settings, given: Input, seed: int) -> RandomVolumes | CaseVolumes:
    if given.cases is None:
        return RandomVolumes(settings.batch_size, settings.volume_shape, seed)
    names = np.random.default_rng(seed).permutation(given.cases.names).tolist()
    return CaseVolumes(given.cases.store, names, settings.batch_size)


def _latencies(
    settings: Settings, engine: Engine, volumes: Iterator[np.ndarray], answer: Callable[[Any], object]
) -> list[float]:
    """Seconds of a block of calls in as many streams as the run has."""
    latencies: list[float] = []
    lock = threading.Lock()

    def made() -> np.ndarray:
        with lock:  # an iterator serves one thread at a time
            return next(volumes)

    def call(_: int) -> None:
        sample = timed_call(engine, lambda: engine.stage(made()), answer)[0]
        latencies.append(sample.latency)

    spread(call, CALLS * settings.streams, settings.streams)
    return latencies


def _moved(volumes: np.ndarray) -> Iterator[np.ndarray]:
    """The same voxels in places where they never were, which takes as long as a copy: at least a thousand different ones."""
    width = volumes.shape[-1]
    for step in count(1):
        yield np.roll(volumes, (step // width, step % width), axis=(-2, -1))


def _digest(engine: Engine, output: object) -> str:
    """Tells logits apart, by some of their voxels."""
    return sha256(engine.logits(output)[..., ::4, ::4, ::4].tobytes()).hexdigest()


def _milliseconds(blocks: Sequence[Sequence[float]]) -> float:
    return 1e3 * float(np.mean([latency for block in blocks for latency in block]))


def _agree(value: float, low: float | None, high: float | None) -> bool:
    """Whether a ratio may be within SPEED of 1, as far as noise allows to say."""
    lowest, highest = (value, value) if low is None or high is None else (low, high)
    return lowest <= 1 + SPEED and highest >= 1 - SPEED


def _told(value: float, low: float | None, high: float | None) -> str:
    interval = open_ = ""
    if low is not None and high is not None:
        interval = f", {low:.3f} to {high:.3f}"
        if _agree(value, low, high) and not 1 - SPEED <= low <= high <= 1 + SPEED:
            open_ = ", which noise leaves open"
    return f"{value:.3f} times as long{interval} (at most {SPEED:.0%} apart{open_})"
