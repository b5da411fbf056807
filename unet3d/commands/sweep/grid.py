"""Which configurations to run: the sensible ones for this machine, or the rows of a YAML or CSV file."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from unet3d.config import kinds
from unet3d.config.parse import Given
from unet3d.config.precisions import PRECISIONS
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Settings
from unet3d.devices import host
from unet3d.engines import registry
from unet3d.errors import UserError, UserErrors

# The likely fastest first.
FASTEST = ("torch", "openvino", "int8", "fp16", "bf16")
# Values of these settings say by themselves what they are; others carry the setting's name in a configuration's name.
PLAIN = ("platform", "engine", "precision", "jit")
NOT_IN_ROWS = {"output_dir": "the sweep gives each configuration a folder of its own"}
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


@dataclass(frozen=True)
class Configuration:
    """Settings of one run beside those that all runs share: texts by setting name; `where` is for messages."""

    name: str
    settings: Mapping[str, str]
    where: str = ""

    @property
    def flags(self) -> list[str]:
        return [word for name, text in self.settings.items() for word in (BY_NAME[name].flag, text)]


def named(settings: Mapping[str, str]) -> str:
    """A folder's name that tells the settings: torch-bf16-compile-streams-2."""
    words = [text if name in PLAIN else f"{name.replace('_', '-')}-{text}" for name, text in settings.items()]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[:100]


def _fastest_first(names: Iterable[str]) -> tuple[str, ...]:
    """Names of engines or precisions, those that nothing is known of last."""
    return tuple(sorted(names, key=lambda name: FASTEST.index(name) if name in FASTEST else len(FASTEST)))


def default(given: Mapping[str, Given], platform: str, cores: int, numa_nodes: int) -> list[Configuration]:
    """Engines x precisions x JIT x streams, the likely fastest first; what the user has set is not varied.

    Holds also what this machine cannot run: the caller asks each engine and reports its reason.
    """
    on_cpu = platform == "CPU"
    axes: dict[str, tuple[str, ...]] = {
        "engine": _fastest_first(registry.names()),
        # The few CPUs that compute fp16 compute bf16 too.
        "precision": _fastest_first(name for name in PRECISIONS if name != "fp16" or not on_cpu),
        "jit": ("compile", "trace", "none"),
        "ipex": ("no", "yes"),
        "streams": tuple(map(str, stream_counts(cores, numa_nodes) if on_cpu else (1, 2))),
    }
    fixed = {name: kinds.show(given[name].value) for name in axes if given[name].source != "default"}
    configurations: dict[str, Configuration] = {}
    for values in itertools.product(*((fixed[name],) if name in fixed else axes[name] for name in axes)):
        shown = dict(zip(axes, values, strict=True))
        if registry.engine_class(shown["engine"]).jits == ("none",):
            del shown["jit"], shown["ipex"]
        elif shown["ipex"] == "yes" and shown["jit"] != "trace" and "jit" not in fixed:
            continue  # IPEX's own fusions work on a trace
        elif shown["ipex"] == "no" and on_cpu:
            del shown["ipex"]
        name = named(shown)
        varied = {key: text for key, text in shown.items() if key not in fixed}
        configurations.setdefault(name, Configuration(name, varied, name))
    return list(configurations.values())


def must_make_sense(settings: Settings) -> None:
    """Refuse what runs on this machine but cannot be the fastest on it; a grid file or a setting runs it nevertheless.

    Raises:
        UserError: with the reason.
    """
    slow = settings.platform == "CPU" and settings.precision == "bf16" and host.bf16_instructions() is None
    if slow:
        raise UserError(
            "PRECISION=bf16 cannot be expected to be faster than fp32 on this CPU, which has neither AMX nor AVX512-BF16; "
            "set it to measure it"
        )


def stream_counts(cores: int, numa_nodes: int) -> list[int]:
    """Numbers of streams worth a run on a CPU: one, one a NUMA node, one for four cores, and on few cores one a core."""
    counts = {1, numa_nodes, cores // 4}
    if cores <= 4:
        counts.add(cores)
    return sorted(count for count in counts if 1 <= count <= cores)


def read(path: Path, given: Mapping[str, Given]) -> list[Configuration]:
    """The rows of a file: each column a setting, by name, flag or variable; an empty cell leaves it as it is.

    In YAML a list of values stands for one row with each of them. A column `name` names the row's folder.

    Raises:
        UserErrors: a line for everything that is wrong with the file.
    """
    problems: list[str] = []
    rows: list[Configuration] = []
    seen: dict[tuple, str] = {}
    names: set[str] = set()
    for number, raw in _rows(path):
        where = f"{path.name} row {number}"
        settings, name = _settings(raw, where, given, problems)
        for combination in _each(settings, where, problems):
            key = tuple(sorted(combination.items()))
            if key in seen:
                problems.append(f"{where}: the same settings as in {seen[key]}; leave one of them out")
            seen.setdefault(key, where)
            rows.append(Configuration(_unique(name or named(combination) or "defaults", names), combination, where))
    if problems:
        raise UserErrors(list(dict.fromkeys(problems)))
    if not rows:
        raise UserErrors([f"{path}: no configuration in it; write one a row, columns are settings (see --sweep --help)"])
    return rows


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    kind = path.suffix.casefold()
    if kind not in (".csv", ".yaml", ".yml"):
        raise UserErrors([f"{path}: a grid is a .yaml, .yml or .csv file; rename it"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserErrors([f"{path}: not text in UTF-8; save it as UTF-8"]) from None
    except OSError as error:
        raise UserErrors([f"{path}: cannot be read ({error.strerror}); name a .yaml or .csv file"]) from None
    yield from _csv_rows(path, text) if kind == ".csv" else _yaml_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    table = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), skipinitialspace=True)]
    if not table:
        return
    header = table[0]
    double = sorted({name for name in map(_setting_name, header) if list(map(_setting_name, header)).count(name) > 1})
    if double:
        raise UserErrors([f"{path}: column {double[0]!r} is there twice; leave one of them out"])
    for number, cells in enumerate(table[1:], start=1):
        if len(cells) > len(header):
            raise UserErrors(
                [
                    f"{path.name} row {number}: {len(cells)} cells under {len(header)} columns; quote a value "
                    "that has a comma, or write 64x64x64"
                ]
            )
        yield number, dict(zip(header, cells, strict=False))


def _yaml_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserErrors([f"{path}: not valid YAML{line}; write a list of rows such as '- {{engine: torch}}'"]) from None
    if content is None:
        return
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UserErrors([f"{path}: rows are missing; write a list such as '- {{engine: torch, jit: [trace, compile]}}'"])
    yield from enumerate(content, start=1)


def _setting_name(column: object) -> str:
    return str(column).strip().lstrip("-").casefold().replace("-", "_")


def _settings(
    raw: Mapping[str, object], where: str, given: Mapping[str, Given], problems: list[str]
) -> tuple[dict[str, object], str | None]:
    """The row's cells by setting name without the empty ones, and its name."""
    settings: dict[str, object] = {}
    name = None
    for column, value in raw.items():
        key = _setting_name(column)
        if value is None or value == "":
            continue
        if key == "name":
            name = str(value)
            if not FOLDER_NAME.fullmatch(name):
                problems.append(f"{where}: name {name!r} is not allowed; use letters, digits, '.', '_' and '-'")
        elif key in NOT_IN_ROWS:
            problems.append(f"{where}: {key} cannot be set in a grid, {NOT_IN_ROWS[key]}; leave the column out")
        elif key not in BY_NAME:
            close = difflib.get_close_matches(key, [*BY_NAME, "name"], n=1)
            problems.append(
                f"{where}: {str(column)!r} is not a setting; "
                + (f"did you mean {close[0]}?" if close else "./run_model.sh --help lists them")
            )
        elif given[key].source == "flag":
            problems.append(f"{where}: {key} is set here and by {BY_NAME[key].flag}; leave one of them out")
        else:
            settings[key] = value
    return settings, name


def _each(settings: Mapping[str, object], where: str, problems: list[str]) -> Iterator[dict[str, str]]:
    """The row with every combination of the values of its lists, each value checked and written in one form."""
    choices = []
    for name, value in settings.items():
        texts = []
        for single in value if isinstance(value, list) else [value]:
            try:
                if isinstance(single, (dict, list)):
                    raise ValueError(BY_NAME[name].values)
                texts.append(kinds.show(BY_NAME[name].parse(kinds.show(single))))
            except ValueError as allowed:
                problems.append(f"{where}: {name} {kinds.show(single)!r} is not allowed; use {allowed}")
        choices.append([(name, text) for text in texts])
    for combination in itertools.product(*choices):
        yield dict(combination)


def _unique(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}-{count}"
    taken.add(candidate)
    return candidate
