#!/usr/bin/env python3
"""Pairs our forms of the network with stock stacks: alternating runs on the same input, ratios with an interval.

    .venv/bin/python benchmarks/paired.py --rounds 3 --iterations 5 --ipex-python .venv-ipex/bin/python
    INPUT_ON_DEVICE=yes .venv/bin/python benchmarks/paired.py --platform CUDA --only ours-torch-trace-fp16,stock-eager-fp16

A round runs every contestant once, each in a fresh process of predict.py with the same seed, in the same order every
time, so that contestants alternate (A B C, A B C, …) and a drift of the machine meets all of them. A ratio is taken
within each round. What is there is kept: the same command goes on where it was stopped, and `--limit` makes only so many
runs now. Settings that all share come from the environment (VOLUME_SHAPE, WEIGHTS, THREADS, …).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import contestants, report, runs  # noqa: E402 - found by the path set above
from benchmarks.contestants import Contestant  # noqa: E402
from unet3d import json_files  # noqa: E402
from unet3d.commands.arguments import OneLineParser  # noqa: E402
from unet3d.commands.sweep.conduct import machine  # noqa: E402
from unet3d.config import kinds, names, parse  # noqa: E402
from unet3d.devices import host, platforms  # noqa: E402
from unet3d.errors import UserErrors  # noqa: E402
from unet3d.files import prepare_folder, write_atomically  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables; 0 when all runs are done, 1 when some are left, 2 for bad input."""
    return runs.guarded(lambda: _benchmark(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="benchmarks/paired.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--platform", choices=names.PLATFORMS, default="CPU", help="(CPU)")
    parser.add_argument("--rounds", type=runs.count, default=3, help="rounds in all (3)")
    parser.add_argument("--iterations", type=runs.count, help="timed calls of each run (5; on a GPU 400: joules need seconds)")
    parser.add_argument("--warm-up", type=runs.count, help="calls before them (2; on a GPU 20)")
    parser.add_argument(
        "--streams", type=runs.count, default=1, help="calls in flight: 1 pairs latency (the default), more pair throughput"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the volumes (0)")
    parser.add_argument("--only", help="contestants that take part, by name, separated by commas")
    parser.add_argument("--ipex-python", help="interpreter of an environment with Intel Extension for PyTorch")
    parser.add_argument(
        "--limit", type=lambda text: runs.count(text, 0), help="runs to make now; call again to go on; 0 only writes the tables"
    )
    parser.add_argument(
        "--time-limit", type=runs.minutes, metavar="MINUTES", help=f"of each run; default: none, on a GPU {runs.GPU_MINUTES}"
    )
    parser.add_argument("--prefix", default="", help="command put before each run, such as 'numactl -N 0 -m 0'")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "paired", help="folder of runs and tables")
    parser.add_argument("--fresh", action="store_true", help="make all runs again")
    given = parser.parse_args(argv)
    on_cpu = given.platform == "CPU"
    given.iterations = given.iterations or (5 if on_cpu else 400)
    given.warm_up = given.warm_up or (2 if on_cpu else 20)
    if given.time_limit is None and not on_cpu:
        given.time_limit = runs.minutes(runs.GPU_MINUTES)
    return given


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
        arguments.platform,
    ]
    given, problems = parse.parse(words, os.environ)
    on_cpu = arguments.platform == "CPU"
    on_device = None if on_cpu else kinds.show(given["input_on_device"].value)
    words += ["--input-on-device", on_device] if on_device else []
    if arguments.ipex_python and not on_cpu:
        problems.append(f"--ipex-python: is for --platform CPU, not {arguments.platform}; leave it out")
    everyone = contestants.on_cpu(arguments.ipex_python) if on_cpu else contestants.on_gpu(contestants.GPU_PRECISIONS)
    taking_part = contestants.chosen(everyone, arguments.only, problems)
    if problems:
        raise UserErrors(problems)
    hardware = host.with_device(host.hardware(), platforms.select(arguments.platform)[0])
    facts = {
        "machine": machine(hardware, host.versions()),
        "hardware": hardware,
        "streams": arguments.streams,
        "input_on_device": on_device,
        "seed": arguments.seed,
        "shared_settings": words,
    }
    folder = arguments.output / f"{'' if on_cpu else arguments.platform + '-'}streams-{arguments.streams}"
    prepare_folder(folder, "--output")
    absent = {
        contestant.name: reason
        for contestant in taking_part
        if (reason := contestants.why_not(contestant, words, os.environ)) is not None
    }
    for name, reason in absent.items():
        print(f"not run: {name}: {reason}")
    prefix = shlex.split(arguments.prefix)
    made = left = 0
    for number in range(1, arguments.rounds + 1):
        for contestant in taking_part:
            place = _place(folder, number, contestant)
            command = [*words, *contestant.settings]
            if contestant.name in absent or (not arguments.fresh and runs.earlier(place, command, arguments.time_limit)):
                continue
            if arguments.limit is not None and made == arguments.limit:
                left += 1
                continue
            print(f"round {number}/{arguments.rounds}: {contestant.name}", flush=True)
            ended = runs.make(contestant, command, place, arguments.time_limit, prefix)
            if ended.document is None:
                print(f"  failed: {ended.reason}", flush=True)
            else:
                print(
                    f"  {report.seconds(report.mean(ended.document))} s per volume ({ended.seconds:.0f} s in all)", flush=True
                )
            made += 1
            _report(folder, arguments, facts, taking_part, absent)
    print(_report(folder, arguments, facts, taking_part, absent))
    if left:
        print(f"{left} runs are left; the same command goes on")
    return 1 if left else 0


def _place(folder: Path, number: int, contestant: Contestant) -> Path:
    """Where a contestant's run of a round is."""
    return folder / f"round-{number:02}" / contestant.name


def _report(
    folder: Path,
    arguments: argparse.Namespace,
    facts: Mapping[str, Any],
    taking_part: Sequence[Contestant],
    absent: Mapping[str, str],
) -> str:
    """Write paired.json and paired.md of what there is, with `facts` of the whole; returns the Markdown."""
    words, limit_s = facts["shared_settings"], arguments.time_limit
    made = {
        contestant.name: {
            number: ended
            for number in range(1, arguments.rounds + 1)
            if (ended := runs.earlier(_place(folder, number, contestant), [*words, *contestant.settings], limit_s))
        }
        for contestant in taking_part
    }
    document = report.document(taking_part, made, absent, arguments.rounds) | dict(facts)
    json_files.write(folder / "paired.json", document)
    text = report.markdown(document)
    write_atomically(folder / "paired.md", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
