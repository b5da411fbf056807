"""Reads settings from flags and environment variables: a flag wins over a variable, a variable over the default.

Everything that is wrong is collected, to be reported in one go before anything heavy is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unet3d.config.settings import SETTINGS, Setting
from unet3d.errors import shown


@dataclass(frozen=True)
class Given:
    """A value and where it came from: 'flag', 'variable' or 'default'."""

    value: object
    source: str


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """All settings as given by the user (None where the default depends on the machine), and what is wrong with them.

    An empty environment variable counts as not set, as in the shell scripts that people wrap around this.
    Each problem is one line; the settings it concerns hold their defaults.
    """
    problems: list[str] = []
    flags = _read_flags(argv, problems)
    given: dict[str, Given] = {}
    for setting in SETTINGS:
        text: str | None = None
        source, label = "default", ""
        if setting.name in flags:
            text, source, label = flags[setting.name], "flag", setting.flag
        elif environ.get(setting.variable, "").strip():
            text, source, label = environ[setting.variable], "variable", setting.variable
        if text is None:
            given[setting.name] = Given(setting.default, "default")
            continue
        try:
            given[setting.name] = Given(setting.parse(text), source)
        except ValueError as allowed:
            problems.append(f"{label}: '{shown(text)}' is not allowed; use {allowed}")
            given[setting.name] = Given(setting.default, "default")
    return given, problems


def _read_flags(argv: Sequence[str], problems: list[str]) -> dict[str, str]:
    by_flag = {setting.flag: setting for setting in SETTINGS}
    flags: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, text = word.partition("=")
        setting = by_flag.get(flag.casefold().replace("_", "-"))
        if setting is None:
            problems.append(_unknown(word, list(by_flag)))
            if not word.startswith("-"):
                continue
            while words and not words[0].startswith("--"):
                words.pop(0)
            continue
        value = text if equals else _take_value(setting, words, problems)
        if value is not None:
            flags[setting.name] = value
    return flags


def _take_value(setting: Setting, words: list[str], problems: list[str]) -> str | None:
    if words and not words[0].startswith("--"):
        return words.pop(0)
    if setting.bare is not None:
        return setting.bare
    problems.append(f"{setting.flag}: a value is missing; use {setting.values}")
    return None


def _unknown(word: str, known: list[str]) -> str:
    if not word.startswith("-"):
        return f"'{shown(word)}': unexpected word; settings are given as --flag value (see --help)"
    flag = word.partition("=")[0]
    close = difflib.get_close_matches(flag[:100], known, n=1)
    hint = f"did you mean {close[0]}?" if close else "see --help for the list"
    return f"{shown(flag)}: unknown flag; {hint}"
