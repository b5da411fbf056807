"""Grids that people write: the rows of a YAML or CSV file, read in bounds.

What is read of a file grows with the file alone: a grid has at most LARGEST_FILE bytes, and how many configurations it
makes is known before the first of them is made.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from unet3d import files
from unet3d.commands.sweep.grid import Configuration, named
from unet3d.config import kinds
from unet3d.config.parse import Given
from unet3d.config.settings import BY_NAME
from unet3d.errors import UserErrors, shown

NOT_IN_ROWS = {"output_dir": "the sweep gives each configuration a folder of its own"}
# The tables of a sweep lie beside the folders of its configurations.
FOLDER_NAME = re.compile(r"(?!(?i:sweep)\.)[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
LARGEST_FILE = 2**18  # bytes
MOST_ROWS = MOST_CONFIGURATIONS = 1000
MOST_COLUMNS = len(BY_NAME) + 1
MOST_TOLD = 20  # lines about what is wrong
# What YAML's core schema takes for no value.
NO_VALUE = ("", "~", "null", "Null", "NULL")

Cell = str | list[str]  # a list stands for a row with each of its values


def read(path: Path, given: Mapping[str, Given]) -> list[Configuration]:
    """The rows of a file: each column a setting, by name, flag or variable; an empty cell leaves it as it is.

    In YAML a list of values stands for one row with each of them. A column `name` names the row's folder.

    Raises:
        UserErrors: a line for everything that is wrong with the file, at most MOST_TOLD.
    """
    problems: list[str] = []
    rows: list[Configuration] = []
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    names: dict[str, int] = {}
    label = shown(path.name, 60)
    for number, raw in enumerate(_rows(path), start=1):
        where = f"{label} row {number}"
        settings, name = _settings(raw, where, given, problems)
        choices = _choices(settings, where, problems)
        if len(rows) + math.prod(len(texts) for texts in choices.values()) > MOST_CONFIGURATIONS:
            raise UserErrors(
                [
                    *problems[:MOST_TOLD],
                    f"{where}: with it there are more than {MOST_CONFIGURATIONS} configurations; write fewer",
                ]
            )
        for values in itertools.product(*choices.values()):
            combination = dict(zip(choices, values, strict=True))
            key = tuple(sorted(combination.items()))
            if key in seen:
                problems.append(f"{where}: the same settings as in {seen[key]}; leave one of them out")
            seen.setdefault(key, where)
            rows.append(Configuration(_unique(name or named(combination) or "defaults", names), combination, where))
    if problems:
        told = list(dict.fromkeys(problems))
        more = [f"{label}: {len(told) - MOST_TOLD} more such lines"] if len(told) > MOST_TOLD else []
        raise UserErrors([*told[:MOST_TOLD], *more])
    if not rows:
        raise UserErrors([f"{shown(path)}: no configuration in it; write one a row, columns are settings (see --sweep --help)"])
    return rows


def _rows(path: Path) -> list[dict[str, Cell]]:
    kind = path.suffix.casefold()
    if kind not in (".csv", ".yaml", ".yml"):
        raise UserErrors([f"{shown(path)}: a grid is a .yaml, .yml or .csv file; rename it"])
    try:
        text = files.read_regular(path, LARGEST_FILE, "grid").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserErrors([f"{shown(path)}: not text in UTF-8; save it as UTF-8"]) from None
    return _csv_rows(path, text) if kind == ".csv" else _yaml_rows(path, text)


def _csv_rows(path: Path, text: str) -> list[dict[str, Cell]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    _bounded(path, len(lines) - 1, "rows", MOST_ROWS)
    try:
        table = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), skipinitialspace=True)]
    except csv.Error as error:
        raise UserErrors(
            [f"{shown(path)}: not valid CSV ({shown(error, 80)}); write a line a row, cells divided by commas"]
        ) from None
    if not table:
        return []
    header = table[0]
    _bounded(path, len(header), "columns", MOST_COLUMNS)
    if double := _twice([_setting_name(name) for name in header]):
        raise UserErrors([f"{shown(path)}: column '{shown(double, 60)}' is there twice; leave one of them out"])
    rows: list[dict[str, Cell]] = []
    for number, cells in enumerate(table[1:], start=1):
        if len(cells) > len(header):
            raise UserErrors(
                [
                    f"{shown(path.name, 60)} row {number}: {len(cells)} cells under {len(header)} columns; quote a value "
                    "that has a comma, or write 64x64x64"
                ]
            )
        rows.append(dict(zip(header, cells, strict=False)))
    return rows


class _Grid(Exception):
    """What is wrong with the YAML, and the line where it is."""

    def __init__(self, what: str, event: yaml.Event):
        super().__init__(f"{what} in line {event.start_mark.line + 1}" if event.start_mark else what)


def _yaml_rows(path: Path, text: str) -> list[dict[str, Cell]]:
    """Rows from YAML's events, as they come: nothing is built but rows of texts, whatever the file describes."""
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    try:
        return list(_rows_of_events(path, events))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UserErrors([f"{shown(path)}: not valid YAML{line}; write a list of rows such as '- {{engine: torch}}'"]) from None
    except _Grid as error:
        raise UserErrors(
            [f"{shown(path)}: {error}; write a list such as '- {{engine: torch, jit: [trace, compile]}}'"]
        ) from None


def _rows_of_events(path: Path, events: Iterator[yaml.Event]) -> Iterator[dict[str, Cell]]:
    next(events)
    if isinstance(next(events), yaml.StreamEndEvent):
        return
    first = next(events)
    if isinstance(first, yaml.ScalarEvent) and _text(first) is None:
        return
    if not isinstance(first, yaml.SequenceStartEvent):
        raise _Grid("rows are missing", first)
    for number, event in enumerate(events, start=1):
        if isinstance(event, yaml.SequenceEndEvent):
            break
        if not isinstance(event, yaml.MappingStartEvent) or event.anchor:
            raise _Grid(f"{_kind(event)} is where a row should be", event)
        _bounded(path, number, "rows", MOST_ROWS, "or more ")
        yield _row_of_events(path, events)
    if not isinstance(next(events), yaml.DocumentEndEvent) or not isinstance(after := next(events), yaml.StreamEndEvent):
        raise _Grid("a second document begins", after)


def _row_of_events(path: Path, events: Iterator[yaml.Event]) -> dict[str, Cell]:
    row: dict[str, Cell] = {}
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            return row
        if not isinstance(key, yaml.ScalarEvent) or key.anchor:
            raise _Grid(f"{_kind(key)} is where a setting's name should be", key)
        name, event = str(key.value), next(events)
        if _setting_name(name) in map(_setting_name, row):
            raise _Grid(f"'{shown(name, 60)}' is there twice in a row", key)
        if isinstance(event, yaml.SequenceStartEvent) and not event.anchor:
            row[name] = list(_values_of_events(events))
        elif isinstance(event, yaml.ScalarEvent) and not event.anchor:
            row[name] = _text(event) or ""
        else:
            raise _Grid(f"{_kind(event)} is not allowed as {shown(name, 60)}", event)
        _bounded(path, len(row), "columns", MOST_COLUMNS, "or more ")
    raise AssertionError("YAML's parser ends what it begins")


def _values_of_events(events: Iterator[yaml.Event]) -> Iterator[str]:
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            return
        if not isinstance(event, yaml.ScalarEvent) or event.anchor:
            raise _Grid(f"{_kind(event)} is not allowed in a list of values", event)
        yield _text(event) or ""


def _text(event: yaml.ScalarEvent) -> str | None:
    """A scalar's text; None where it says that there is no value."""
    return None if event.style is None and event.value in NO_VALUE else str(event.value)


def _kind(event: yaml.Event) -> str:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        return "an anchor or alias (& or *)"
    if isinstance(event, yaml.CollectionStartEvent):
        return "a list" if isinstance(event, yaml.SequenceStartEvent) else "a mapping"
    return "a value"


def _bounded(path: Path, count: int, what: str, most: int, more: str = "") -> None:
    if count > most:
        raise UserErrors([f"{shown(path)}: {count} {more}{what}, a grid has at most {most}; write fewer"])


def _twice(names: list[str]) -> str | None:
    """The first name that is there more than once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _setting_name(column: str) -> str:
    return column.strip().lstrip("-").casefold().replace("-", "_")


def _settings(
    raw: Mapping[str, Cell], where: str, given: Mapping[str, Given], problems: list[str]
) -> tuple[dict[str, Cell], str | None]:
    """The row's cells by setting name without the empty ones, and its name."""
    settings: dict[str, Cell] = {}
    name = None
    for column, value in raw.items():
        key = _setting_name(column)
        if value == "":
            continue
        if key == "name":
            name = value if isinstance(value, str) and FOLDER_NAME.fullmatch(value) else None
            if name is None:
                problems.append(
                    f"{where}: name '{shown(value, 60)}' is not allowed; use letters, digits, '.', '_' and '-', not sweep.*"
                )
        elif key in NOT_IN_ROWS:
            problems.append(f"{where}: {key} cannot be set in a grid, {NOT_IN_ROWS[key]}; leave the column out")
        elif key not in BY_NAME:
            # No name of a setting is longer, and comparing a long text takes long.
            close = difflib.get_close_matches(key[:40], [*BY_NAME, "name"], n=1)
            problems.append(
                f"{where}: '{shown(column, 60)}' is not a setting; "
                + (f"did you mean {close[0]}?" if close else "./run_model.sh --help lists them")
            )
        elif given[key].source == "flag":
            problems.append(f"{where}: {key} is set here and by {BY_NAME[key].flag}; leave one of them out")
        else:
            settings[key] = value
    return settings, name


def _choices(settings: Mapping[str, Cell], where: str, problems: list[str]) -> dict[str, list[str]]:
    """Of each setting the values that the row stands for, each checked and written in one form."""
    choices: dict[str, list[str]] = {}
    for name, value in settings.items():
        texts = choices[name] = []
        for single in value if isinstance(value, list) else [value]:
            try:
                texts.append(kinds.show(BY_NAME[name].parse(single)))
            except ValueError as allowed:
                problems.append(f"{where}: {name} '{shown(single, 60)}' is not allowed; use {allowed}")
    return choices


def _unique(name: str, taken: dict[str, int]) -> str:
    """The name, with a number behind it where it is taken. taken: numbers given so far, by name."""
    candidate = name
    while candidate in taken:
        taken[name] += 1
        candidate = f"{name}-{taken[name]}"
    taken[candidate] = 1
    return candidate
