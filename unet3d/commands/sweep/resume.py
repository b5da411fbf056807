"""Whether a configuration's earlier results still stand: same settings, weights, code, software and machine."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict, cast

from unet3d import json_files, places
from unet3d.brats import weights
from unet3d.commands.sweep.process import complete_results
from unet3d.config.values import Settings
from unet3d.devices import host
from unet3d.errors import UserError
from unet3d.results.document import requested
from unet3d.results.schema import Results, Value

STATE = "configuration.json"
CODE = (".py", ".cpp", ".h")
# Bytes of the file beside a run's results, and seconds that a run may have taken: more is no such file.
LARGEST_STATE, LONGEST_S = 2**20, 1e9


class Fingerprint(TypedDict):
    """Everything a run's figures depend on and that can be known beforehand."""

    settings: dict[str, Value]
    prefix: list[str]
    weights_sha256: str | None
    git_commit: str | None
    code_sha256: str
    versions: dict[str, str]
    variables: dict[str, str]
    cpu: str
    cores: int
    device: str | None
    driver: str | None


class State(TypedDict, total=False):
    """configuration.json beside a run's results."""

    fingerprint: Fingerprint
    seconds: float


def fingerprint(settings: Settings, prefix: Sequence[str], hardware: Mapping[str, Any]) -> Fingerprint:
    """The fingerprint of a run with these settings, the words of `prefix` before its command.

    hardware: the machine with the device that the run will be on, see `unet3d.devices.host.with_device`.

    Raises:
        UserError: when the weights cannot be read.
    """
    commit, _ = host.git_state(places.ROOT)
    return {
        "settings": {name: value for name, value in requested(settings).items() if name != "output_dir"},
        "prefix": list(prefix),
        "weights_sha256": _weights_sha256(settings.weights, settings.fold),
        "git_commit": commit,
        "code_sha256": code_sha256(places.PACKAGE),
        "versions": _versions(),
        "variables": host.variables(),
        "cpu": hardware["cpu"],
        "cores": hardware["usable_cores"],
        "device": hardware.get("device"),
        "driver": hardware.get("driver"),
    }


def earlier(folder: Path, now: Fingerprint) -> Results | None:
    """The complete results that a run of the same fingerprint left in the folder, None if it has to run (again)."""
    document = complete_results(folder)
    state = read_state(folder)
    if document is None or state.get("fingerprint") != now:
        return None
    # The state file tells what was asked for; the results themselves must tell the same.
    asked = {name: value for name, value in document["settings"]["requested"].items() if name != "output_dir"}
    hardware = document["environment"].get("hardware", {})
    same = (
        asked == now["settings"]
        and document["weights"].get("sha256") == now["weights_sha256"]
        and document["benchmark"]["git_commit"] == now["git_commit"]
        and hardware.get("cpu") == now["cpu"]
        and hardware.get("device") == now["device"]
        and hardware.get("driver") == now["driver"]
    )
    return document if same else None


def read_state(folder: Path) -> State:
    """What an earlier sweep noted about this folder; empty when there is nothing that can be read."""
    try:
        state = json_files.read(folder / STATE, LARGEST_STATE, "configuration")
    except UserError:
        return {}
    seconds = state.get("seconds") if isinstance(state, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < LONGEST_S:
        return {}
    return cast(State, state)


def write_state(folder: Path, now: Fingerprint, seconds: float) -> None:
    """Note a run's fingerprint and how long it took, for the next sweep and its estimate of the time."""
    json_files.write(folder / STATE, {"fingerprint": now, "seconds": seconds})


@functools.cache
def code_sha256(root: Path) -> str:
    """Of the package's files, so that edits that are not committed count as well."""
    digest = sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in CODE:
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _weights_sha256(source: str, fold: int) -> str | None:
    return None if source.casefold() == "random" else weights.load(source, fold).sha256


@functools.cache
def _versions() -> dict[str, str]:
    return host.versions()
