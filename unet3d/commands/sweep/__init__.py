"""`./run_model.sh --sweep`: every sensible configuration of this machine in a fresh process, and a ranked table."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from unet3d import signals
from unet3d.commands.sweep import conduct, grid, grid_file, process, tables
from unet3d.commands.sweep.conduct import Planned
from unet3d.commands.sweep.grid import Configuration
from unet3d.config import kinds, parse
from unet3d.config.parse import Given
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Asked
from unet3d.devices import host
from unet3d.errors import BenchmarkError, UserErrors, messages_of, shown
from unet3d.files import prepare_folder
from unet3d.locks import FolderLock
from unet3d.planning.plan import ask, make
from unet3d.planning.refusals import impossible

HELP = """\
usage: ./run_model.sh --sweep [--grid FILE] [--fresh] [--list] [--time-limit MINUTES] [--prefix COMMAND] [settings]

Runs many configurations, each in a process of its own, and ranks them: throughput, latency percentiles, memory,
TFLOP/s, agreement with fp32, Dice with DUMMY=no. Ends with the commands of the two winners.

  --grid FILE, --profile-file FILE
      The configurations: a CSV file whose columns are settings, or YAML with a list of rows in which a list of values
      stands for a row with each. A column `name` names the row's folder. Without it: engines x precisions x JIT x
      streams as they make sense on this machine.
          engine,precision,jit,streams        - {engine: torch, jit: [trace, compile]}
          torch,bf16,compile,1                - {engine: openvino, precision: bf16, streams: [1, 2]}
          openvino,bf16,,2
  --fresh
      Run everything again. Otherwise a configuration is not run if it is there complete, of the same settings, weights,
      code, software and machine.
  --list
      Show what would run, how long that takes, and what is left out, with the reason; run nothing.
  --time-limit MINUTES
      Stop a configuration that takes longer; it counts as failed.
  --prefix COMMAND
      Put before each run, such as 'numactl --cpunodebind=0 --membind=0'.

Settings given as flags or variables (./run_model.sh --help) hold for every configuration and are not varied.
Results: OUTPUT_DIR/sweep/sweep.md, .csv and .json, and in OUTPUT_DIR/sweep/<configuration>/ what each run wrote with
its console.log. Ctrl-C keeps what is there; the same command goes on.

Exit code: 0 when at least one configuration was measured, 1 when none was, 2 for bad settings or a bad grid."""

OPTIONS = {
    "--grid": "a .yaml or .csv file",
    "--profile-file": "a .yaml or .csv file",
    "--time-limit": "minutes",
    "--prefix": "a command",
}
SWITCHES = ("--fresh", "--list")


@dataclass
class Options:
    """What concerns the sweep alone."""

    file: Path | None = None
    fresh: bool = False
    list_only: bool = False
    time_limit: float | None = None  # seconds
    prefix: list[str] = field(default_factory=list)


def main(argv: Sequence[str]) -> int:
    """Run the sweep that `argv` (without --sweep) and the environment describe; returns the exit code.

    Raises:
        UserError: for bad settings, a bad grid or when nothing of it can run here.
    """
    if "--help" in argv or "-h" in argv:
        print(HELP)
        return 0
    options, words = _options(argv)
    given, problems = parse.parse(words, os.environ)
    if problems:
        raise UserErrors(problems)
    planned, left_out = _plan(options, words, given)
    if options.list_only:
        from unet3d.commands.sweep import estimate

        print("\n".join(estimate.lines(cast(Path, given["output_dir"].value) / "sweep", planned)))
        for reason, names in tables.by_reason(left_out).items():
            print(f"left out: {names}: {reason}")
        return 0
    if not planned:
        raise UserErrors(["nothing of the grid can run here: " + reason for reason in tables.by_reason(left_out)])
    folder = cast(Path, given["output_dir"].value) / "sweep"
    prepare_folder(folder, "OUTPUT_DIR")
    again = shlex.join(["./run_model.sh", "--sweep", *(word for word in argv if word.casefold() != "--fresh")])
    with FolderLock(folder, "OUTPUT_DIR"):
        signals.by_exception()
        return conduct.Sweep(folder, planned, left_out, words, options.prefix, options.time_limit, again).run(options.fresh)


def _options(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """The sweep's own options, and the words that are left."""
    options, rest, problems = Options(), [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        flag = flag.casefold()
        if flag in SWITCHES and not equals:
            options.fresh |= flag == "--fresh"
            options.list_only |= flag == "--list"
        elif flag in OPTIONS:
            if not equals:
                text = words.pop(0) if words and not words[0].startswith("--") else ""
            if not text.strip():
                problems.append(f"{flag}: a value is missing; give {OPTIONS[flag]}")
            elif flag == "--time-limit":
                options.time_limit = _minutes(text, problems)
            elif flag == "--prefix":
                options.prefix = _words(text, problems)
            else:
                options.file = _file(flag, text, problems)
        else:
            rest.append(word)
    if problems:
        raise UserErrors(problems)
    return options, rest


def _words(text: str, problems: list[str]) -> list[str]:
    """A command's words, as a shell divides them."""
    try:
        words = shlex.split(text)
        if words and text.isprintable():
            return words
    except ValueError:  # a quote that is not closed, a backslash at the end
        pass
    problems.append(f"--prefix: '{shown(text)}' is not allowed; use a command whose quotes are closed, such as 'nice -n 5'")
    return []


def _file(flag: str, text: str, problems: list[str]) -> Path | None:
    try:
        return kinds.path(text)
    except ValueError as allowed:
        problems.append(f"{flag}: '{shown(text)}' is not allowed; use {allowed}")
        return None


def _minutes(text: str, problems: list[str]) -> float | None:
    seconds = process.time_limit_of(text)
    if seconds is None:
        problems.append(f"--time-limit: '{shown(text)}' is not allowed; use a number of minutes above 0")
    return seconds


def _plan(options: Options, words: Sequence[str], given: Mapping[str, Given]) -> tuple[list[Planned], list[dict[str, str]]]:
    """Configurations to run, and those that this machine cannot run with the reason."""
    from unet3d.devices import platforms

    if options.file is not None:
        configurations = grid_file.read(options.file, given)
        _refuse_impossible(configurations, words)
    else:
        platform = platforms.select(cast(str | None, given["platform"].value))[1]
        nodes = host.hardware()["numa_nodes"]
        configurations = grid.default(given, platform, cast(int | None, given["threads"].value) or host.usable_cores(), nodes)
    planned, left_out = [], []
    for configuration in configurations:
        try:
            able = _able(configuration, words, options.prefix)
            if "precision" in configuration.settings and options.file is None:
                grid.must_make_sense(able.settings)
            planned.append(able)
        except BenchmarkError as error:
            left_out.append({"name": configuration.name, "reason": "; ".join(messages_of(error))})
    return planned, left_out


def _refuse_impossible(configurations: Sequence[Configuration], words: Sequence[str]) -> None:
    """Combinations in a file that no machine can run are mistakes in the file.

    Raises:
        UserErrors: with the row of each; without where every row has it, since the settings around the grid are wrong.
    """
    rows: dict[str, list[str]] = {}
    for configuration in configurations:
        given, _ = parse.parse([*words, *configuration.flags], os.environ)
        for problem in impossible(Asked.of(given)):
            rows.setdefault(problem, []).append(configuration.where)
    if rows:
        raise UserErrors(
            [problem if len(where) == len(configurations) > 1 else f"{where[0]}: {problem}" for problem, where in rows.items()]
        )


def _able(configuration: Configuration, words: Sequence[str], prefix: Sequence[str]) -> Planned:
    """The configuration with all its settings.

    Raises:
        UserErrors: why it cannot run on this machine.
    """
    asked = ask([*words, *configuration.flags], os.environ)
    flags = [
        word
        for name, value in asked.values().items()
        if asked.sources[name] != "default" and name != "output_dir"
        for word in (BY_NAME[name].flag, kinds.show(value))
    ]
    plan = make(asked)
    return Planned(configuration, plan.settings, plan.device, shlex.join([*prefix, "./run_model.sh", *flags]))
