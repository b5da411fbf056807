"""The results that come with the benchmark, one file a measured configuration, and how a further one is added.

A file is a results.json without paths, host name, command and series, named after date, machine and what ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from unet3d import json_files, places
from unet3d.commands.compare import machines, runs
from unet3d.commands.compare.runs import Side
from unet3d.errors import UserError, shown
from unet3d.results import reader
from unet3d.results.schema import Results, Value

WORD = "reference"
# Of an absolute path the last part stays: it names a library or a file of weights, the rest names people.
_PATH = re.compile(r"(?<![\w./:~])~?/(?:[^\s/,:;'\"]+/)+([^\s/,:;'\"]*)")
DROPPED = ("profile", "ranks", "pool", "placement", "load_seconds")


def sides(folder: Path | None = None) -> list[Side]:
    """The committed results, by name.

    Raises:
        UserError: when one of them cannot be read.
    """
    files = sorted((folder or places.REFERENCE_RESULTS).glob("*.json"))
    return [Side(f"{WORD}/{file.stem}", [runs.load(file)], (file.resolve(),)) for file in files]


def name_of(doc: Results) -> str:
    """The file's name: date, machine, engine, precision, and streams, batch or accuracy where they are not the usual."""
    requested, machine = cast(Mapping[str, Value], doc["settings"]["requested"]), machines.of(doc)
    words = [str(doc["started"])[:10], machine.label, str(doc["effective"].get("engine")).partition(" ")[0]]
    words.append(str(doc["effective"].get("precision") or requested["precision"]))
    words += [
        f"{name}-{requested[key]}" for key, name in (("streams", "streams"), ("batch_size", "batch")) if requested[key] != 1
    ]
    words += [doc["mode"]] * (doc["mode"] != "performance") + [doc["scenario"]] * (doc["scenario"] != "loop")
    return "-".join(filter(None, (re.sub(r"[^a-z0-9]+", "-", word.casefold()).strip("-") for word in words))) + ".json"


def published(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A results.json's document as others may see it: no path, host name, command line or series over time."""
    kept = {name: part for name, part in doc.items() if name not in DROPPED}
    kept["ranks"] = [{"rank": rank.get("rank")} for rank in doc.get("ranks") or []]
    kept["load_seconds"] = doc.get("load_seconds", {})
    kept["benchmark"] = {**doc["benchmark"], "command": []}
    if "telemetry" in doc:
        kept["telemetry"] = {**doc["telemetry"], "series": {"time_s": []}}
    kept["environment"] = {**doc["environment"], "hardware": {**doc["environment"]["hardware"]}}
    kept["environment"]["hardware"].pop("host", None)
    return dict(_without_paths(kept))


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_without_paths(name): _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return _PATH.sub(r"…/\1", value) if isinstance(value, str) else value


def add(run: Path, folder: Path | None = None) -> Path:
    """Put a run's results.json among the committed ones; returns the new file.

    Raises:
        UserError: when it cannot be read, is incomplete, or is not of this benchmark's volume and a commit without changes.
    """
    file = run / "results.json" if run.is_dir() else run
    checked = runs.load(file)
    reasons = [] if checked.get("complete") else [f"it is incomplete ({shown(checked.get('incomplete_reason'))})"]
    if not checked["volume"].get("standard"):
        reasons.append("its volume is not this benchmark's")
    if not checked["benchmark"].get("git_commit") or checked["benchmark"].get("git_dirty") is not False:
        reasons.append("it names no commit, or files differed from it, or whether they did is not known")
    if reasons:
        raise UserError(f"{shown(file)}: is no reference: {'; '.join(reasons)}; run the benchmark as it is committed")
    target = (folder or places.REFERENCE_RESULTS) / name_of(checked)
    if target.exists():
        raise UserError(f"{shown(target)}: is there already; remove it first if this run shall replace it")
    document = published(reader.read(file))
    json_files.write(target, document)
    return target
