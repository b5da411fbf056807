#!/usr/bin/env python3
"""Pairs our forms of the network with stock stacks: alternating runs on the same input, ratios with an interval.

    .venv/bin/python benchmarks/paired.py --rounds 3 --iterations 5 --ipex-python .venv-ipex/bin/python

A round runs every contestant once, each in a fresh process of predict.py with the same seed, in the same order every
time, so that contestants alternate (A B C, A B C, …) and a drift of the machine meets all of them. A ratio is taken
within each round. What is there is kept: the same command goes on where it was stopped, and `--limit` makes only so many
runs now. Settings that all share come from the environment (VOLUME_SHAPE, WEIGHTS, THREADS, …).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import contestants, report  # noqa: E402 - found by the path set above
from benchmarks.contestants import Contestant  # noqa: E402
from unet3d.commands.sweep import process  # noqa: E402
from unet3d.commands.sweep.conduct import machine  # noqa: E402
from unet3d.config import parse  # noqa: E402
from unet3d.devices import host  # noqa: E402
from unet3d.errors import BenchmarkError, UserErrors  # noqa: E402
from unet3d.files import prepare_folder, write_atomically  # noqa: E402

OUTCOME = "outcome.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables; 0 when all runs are done, 1 when some are left, 2 for bad input."""
    arguments = _arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _benchmark(arguments)
    except UserErrors as error:
        for message in error.messages:
            print(f"ERROR: {message}", file=sys.stderr)
        return error.exit_code
    except BenchmarkError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return 130


def _interrupt(number: int, frame: object) -> None:
    """Ends the run in progress too, whichever signal came and also where a shell's background made SIGINT ignored."""
    raise KeyboardInterrupt


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def count(text: str, least: int = 1) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use a whole number of at least {least}")
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=count, default=3, help="rounds in all (3)")
    parser.add_argument("--iterations", type=count, default=5, help="timed calls of each run (5)")
    parser.add_argument("--warm-up", type=count, default=2, help="calls before them (2)")
    parser.add_argument(
        "--streams", type=count, default=1, help="calls in flight: 1 pairs latency (the default), more pair throughput"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the volumes (0)")
    parser.add_argument("--only", help="contestants that take part, by name, separated by commas")
    parser.add_argument("--ipex-python", help="interpreter of an environment with Intel Extension for PyTorch")
    parser.add_argument(
        "--limit", type=lambda text: count(text, 0), help="runs to make now; call again to go on; 0 only writes the tables"
    )
    parser.add_argument("--prefix", default="", help="command put before each run, such as 'numactl -N 0 -m 0'")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "paired", help="folder of runs and tables")
    parser.add_argument("--fresh", action="store_true", help="make all runs again")
    return parser.parse_args(argv)


def _benchmark(arguments: argparse.Namespace) -> int:
    words = [
        "--num-iterations",
        str(arguments.iterations),
        "--warm-up",
        str(arguments.warm_up),
        "--streams",
        str(arguments.streams),
        "--seed",
        str(arguments.seed),
        "--platform",
        "CPU",
    ]
    _, problems = parse.parse(words, os.environ)
    everyone = contestants.everyone(arguments.ipex_python)
    taking_part = _chosen(everyone, arguments.only, problems)
    if problems:
        raise UserErrors(problems)
    folder = arguments.output / f"streams-{arguments.streams}"
    prepare_folder(folder, "--output")
    absent = {one.name: reason for one in taking_part if (reason := contestants.why_not(one, words, dict(os.environ)))}
    for name, reason in absent.items():
        print(f"not run: {name}: {reason}")
    prefix = shlex.split(arguments.prefix)
    made = left = 0
    for number in range(1, arguments.rounds + 1):
        for one in taking_part:
            place = folder / f"round-{number:02}" / one.name
            command = [*words, *one.settings]
            if one.name in absent or (not arguments.fresh and _outcome(place, command)):
                continue
            if arguments.limit is not None and made == arguments.limit:
                left += 1
                continue
            print(f"round {number}/{arguments.rounds}: {one.name}", flush=True)
            _run(one, command, place, prefix)
            made += 1
            _report(folder, arguments, words, taking_part, absent)
    print(_report(folder, arguments, words, taking_part, absent))
    if left:
        print(f"{left} runs are left; the same command goes on")
    return 1 if left else 0


def _chosen(everyone: Sequence[Contestant], only: str | None, problems: list[str]) -> list[Contestant]:
    if only is None:
        return list(everyone)
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [one.name for one in everyone]
    problems += [f"--only: {name!r} is not a contestant; use {', '.join(known)}" for name in names if name not in known]
    return [one for one in everyone if one.name in names]


def _run(one: Contestant, command: Sequence[str], place: Path, prefix: Sequence[str]) -> None:
    outcome = process.run(command, place, python=one.python, prefix=prefix)
    # A failure is kept like a result: going on must not try it again and again.
    write_atomically(
        place / OUTCOME,
        json.dumps({"command": list(command), "seconds": outcome.seconds, "reason": outcome.reason}, indent=1) + "\n",
    )
    if outcome.document is None:
        print(f"  failed: {outcome.reason}", flush=True)
    else:
        print(f"  {report.mean(outcome.document):.3f} s a volume ({outcome.seconds:.0f} s in all)", flush=True)


def _outcome(place: Path, command: Sequence[str]) -> dict[str, Any] | None:
    """How an earlier run of the same command ended: its reason of failure, or None and its results."""
    try:
        ended = json.loads((place / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if ended.get("command") != list(command):
        return None
    document = process.complete_results(place)
    if ended.get("reason") is None and document is None:
        return None
    return {"reason": ended.get("reason"), "document": document if ended.get("reason") is None else None}


def _report(
    folder: Path, arguments: argparse.Namespace, words: Sequence[str], taking_part: Sequence[Contestant], absent: dict[str, str]
) -> str:
    """Write paired.json and paired.md of what there is; returns the Markdown."""
    runs = {
        one.name: {
            number: ended
            for number in range(1, arguments.rounds + 1)
            if (ended := _outcome(folder / f"round-{number:02}" / one.name, [*words, *one.settings]))
        }
        for one in taking_part
    }
    document = report.document(taking_part, runs, absent, arguments.rounds)
    document["machine"] = machine(host.hardware(), host.versions())
    document["hardware"] = host.hardware()
    document["streams"], document["seed"] = arguments.streams, arguments.seed
    document["shared_settings"] = list(words)
    write_atomically(folder / "paired.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    text = report.markdown(document)
    write_atomically(folder / "paired.md", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
