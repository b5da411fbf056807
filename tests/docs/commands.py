"""What a documented command line names, and whether this repository has it: files, verbs, flags, variables and their values."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shlex
from collections.abc import Iterator
from unittest import mock

from documents import ROOT, Block

from unet3d import cli
from unet3d.config import parse
from unet3d.config.settings import SETTINGS

ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
VARIABLES = {setting.variable: setting for setting in SETTINGS}
PREPROCESS = ("--dataset-dir", "--preprocessed-dir")
# The repository's own files in a command line; what a run writes or a user has is not among them.
OWN = re.compile(
    r"(?:\./)?((?:benchmarks|docker|docs|tests|unet3d|folds|samples)/[\w./-]+|[\w-]+\.sh|requirements[\w-]*\.txt|\w+\.py)"
)


def simple(script: str) -> Iterator[list[str]]:
    """The words of each simple command of a script, and of scripts that it hands to `bash -c`."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;()")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token.strip("&|;()"):
                words.append(token)
                continue
            if words:
                yield words
            words = []


def wrong(block: Block) -> list[str]:
    """A line for everything that a block names and that is not there."""
    problems = []
    for words in simple(block.script):
        problems += _wrong(words)
    return [f"{block}: {problem}" for problem in problems]


def _wrong(words: list[str]) -> list[str]:
    problems, given = [], {}
    words = [word for word in words if word != "export"]
    while words and (match := ASSIGNMENT.fullmatch(words[0])):
        given[match[1]] = match[2]
        words = words[1:]
    for index, word in enumerate(words):
        if word in ("-c", "-lc") and index + 1 < len(words):
            problems += [problem for inner in simple(words[index + 1]) for problem in _wrong(inner)]
        if word == "-e" and index + 1 < len(words) and (match := ASSIGNMENT.fullmatch(words[index + 1])):
            given[match[1]] = match[2]
        if (match := OWN.fullmatch(word.partition("=")[2] or word)) and not (ROOT / match[1]).exists():
            problems.append(f"{word} is not there")
    problems += [problem for name, value in given.items() for problem in _wrong_variable(name, value)]
    if words:
        problems += _wrong_words(words[0], words[1:])
    return problems


def _wrong_variable(name: str, value: str) -> list[str]:
    if name not in VARIABLES:
        known = {*re.findall(r"`([A-Z]\w*)`", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))}
        known.add("PYTHONPATH")  # Python's own
        # Of docker/compose.yaml.
        known |= set(re.findall(r"\$\{(\w+)", (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")))
        return [] if name in known else [f"{name} is no setting, and docs/settings.md does not name it"]
    if "$" in value:
        return []
    try:
        VARIABLES[name].parse(value)
    except ValueError as allowed:
        return [f"{name}={value}: use {allowed}"]
    return []


def _wrong_words(program: str, words: list[str]) -> list[str]:
    name = program.removeprefix("./")
    if name == "run_model.sh" or program == "unet3d":
        return _wrong_run(words)
    if name == "preprocess.sh":
        return [f"{program} has no {word}" for word in words if word.startswith("-") and word not in PREPROCESS]
    if name in ("setup.sh", "tests/lint.sh", "tests/containers/run.sh"):
        text = (ROOT / name).read_text(encoding="utf-8")
        options = [word for word in words if word.startswith("-") or name != "setup.sh"]
        return [f"{program} knows no {word}" for word in options if word not in text]
    script = next((word for word in words if re.fullmatch(r"(?:benchmarks|docker)/\w+\.py", word)), None)
    if "python" in program and script:
        text = (ROOT / script).read_text(encoding="utf-8")
        return [f"{script} has no {word}" for word in words if word.startswith("--") and f'"{word}"' not in text]
    return []


def _wrong_run(words: list[str]) -> list[str]:
    verb = words[0].removeprefix("--") if words else ""
    if verb in cli.VERBS:
        told = _help(verb)
        flags = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
        known = {setting.flag for setting in SETTINGS} if verb in ("sweep", "check") else set()
        return [f"{verb} has no {flag}" for flag in flags if flag not in told and flag not in known]
    if words in (["--help"], ["--version"]):
        return []
    return parse.parse(words, {})[1]


@functools.cache
def _help(verb: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as told, mock.patch.dict(os.environ):
        cli.call(cli.VERBS[verb][0], ["--help"])
    return told.getvalue()
