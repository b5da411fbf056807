"""Tries faults on real processes and prints how many of each class held.

    python -m tests.robustness.harness --rounds 200 --seed 7     # each fixed fault once, 200 random ones
    python -m tests.robustness.harness --rounds 0 --only streams

Exit code 1 where something did not hold; each such case is named with what was wrong.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.robustness.faults import FIXED, RANDOM, Place


def narrow_weights(folder: Path, base_features: int = 8, max_features: int = 32) -> Path:
    """Random weights of a narrow network, with which a run takes a second."""
    from unet3d.brats import training, weights

    narrow = weights.random_weights(base_features=base_features, max_features=max_features)
    path = folder / "narrow.zip"
    training.pack(path, narrow.plans, narrow.state_dict, [1.0])
    return path


def cases(rounds: int, seed: int, only: str | None) -> Iterator[tuple[str, str, Callable[[Place], list[str]]]]:
    """(class, name, what tries it): every fixed fault, then `rounds` random ones, the same for the same seed."""
    for fault in FIXED:
        if only in (None, fault.group):
            yield fault.group, fault.name, fault.tried
    groups = [group for group in RANDOM if only in (None, group)]
    for number in range(rounds if groups else 0):
        group = groups[number % len(groups)]
        yield (
            group,
            f"seed {seed}, round {number}",
            lambda place, g=group, n=number: RANDOM[g](place, random.Random(f"{seed} {n}")),
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.harness", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="random faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one class", choices=sorted({fault.group for fault in FIXED} | set(RANDOM)))
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    given = parser.parse_args(argv)
    tried, held = Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="unet3d-faults-") as top, ThreadPoolExecutor(given.jobs) as pool:
        weights = narrow_weights(Path(top))

        def attempt(number: int, work: Callable[[Place], list[str]]) -> list[str]:
            folder = Path(top) / str(number)
            folder.mkdir()
            return work(Place(folder, weights))

        todo = list(cases(given.rounds, given.seed, given.only))
        pending = [pool.submit(attempt, number, work) for number, (_, _, work) in enumerate(todo)]
        for (group, name, _), done in zip(todo, pending, strict=True):
            faults = done.result()
            tried[group] += 1
            held[group] += not faults
            if faults:
                print(f"NOT HELD  {group}: {name}: {'; '.join(faults)[:1000]}", flush=True)
    width = max(map(len, tried))
    print(f"\n{'class':<{width}}  tried   held")
    for group in tried:
        print(f"{group:<{width}}  {tried[group]:>5}  {held[group]:>5}")
    print(f"{'all':<{width}}  {tried.total():>5}  {held.total():>5}")
    return 0 if held == tried else 1


if __name__ == "__main__":
    sys.exit(main())
