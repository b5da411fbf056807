"""Documents of schema_version 1, turned into those of 2: settings were text, devices and networks had engines' own names."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from unet3d.config.settings import BY_NAME
from unet3d.config.values import Settings

# Names that nnU-Net's own module had; every other that version 1 has was a form of ours.
REFERENCE = ("ReferenceUNet", "Generic_UNet", "reference")


def converted(doc: Mapping[str, Any]) -> dict[str, Any]:
    """The document as version 2 writes it. What is not as version 1 had it stays as it is, for the schema to refuse."""
    new = {**doc, "schema_version": 2}
    settings = new.get("settings")
    if isinstance(settings, dict) and isinstance(settings.get("requested"), dict):
        requested = {name: _typed(name, value) for name, value in settings["requested"].items()}
        new["settings"] = {**settings, "requested": requested}
    effective = new.get("effective")
    if isinstance(effective, dict) and effective:
        new["effective"] = _in_one_vocabulary(effective)
    return new


def _typed(name: str, text: object) -> object:
    """A setting's value from its text."""
    if name not in BY_NAME or not isinstance(text, str):
        return text
    if text == "none" and types.NoneType in get_args(get_type_hints(Settings)[name]):
        return None
    try:
        value = BY_NAME[name].parse(text)
    except ValueError:
        return text
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, (bool, int)) else text


def _in_one_vocabulary(effective: Mapping[str, Any]) -> dict[str, Any]:
    """Device and network by the names that all engines share."""
    new = dict(effective)
    device, network = effective.get("device"), effective.get("network")
    if isinstance(device, str):
        kind = re.match(r"(cpu|cuda|xpu)\b(:\d+)?", device.casefold())
        if kind:
            new["device"] = "cpu" if kind[1] == "cpu" else kind[1] + (kind[2] or ":0")
    if isinstance(network, str):
        new["network"] = "reference" if network in REFERENCE else "fast"
        if isinstance(effective.get("details"), dict):
            new["details"] = {"class": network, **effective["details"]}
    return new
