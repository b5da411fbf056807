"""Engines, a line each: importing this imports none of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from unet3d.engines.base import Engine, EngineSettings, Request
from unet3d.errors import UserErrors

if TYPE_CHECKING:
    # What an engine stages and gives out is its own affair.
    AnyEngine = Engine[Any, Any]


class Entry(NamedTuple):
    """An engine's name, the module that holds it and its class."""

    name: str
    module: str
    class_name: str


_ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("torch", "unet3d.engines.pytorch.engine", "TorchEngine"),
        Entry("openvino", "unet3d.engines.openvino.engine", "OpenVINOEngine"),
        Entry("onnxruntime", "unet3d.engines.onnxruntime.engine", "OnnxRuntimeEngine"),
    )
}


def names() -> tuple[str, ...]:
    """Every engine, in the order in which they are shown."""
    return tuple(_ENTRIES)


def engine_class(name: str) -> type[AnyEngine]:
    """The class of the engine with this name; imports nothing heavy."""
    entry = _ENTRIES[name]
    return cast("type[AnyEngine]", getattr(importlib.import_module(entry.module), entry.class_name))


def refuse_settings(asked: EngineSettings) -> list[str]:
    """Why the engine that was asked for can run these settings on no machine, a line each; see `Engine.refuse_settings`."""
    return engine_class(asked.engine).refuse_settings(asked)


def refuse(request: Request) -> list[str]:
    """Why the engine that the request names cannot run it here, a line each; see `Engine.refuse`."""
    return engine_class(request.engine).refuse(request)


def must_run(request: Request) -> None:
    """Whether the engine that the request names can run it.

    Raises:
        UserErrors: with every reason why it cannot run on this machine.
    """
    reasons = refuse(request)
    if reasons:
        raise UserErrors(reasons)


def create(request: Request) -> AnyEngine:
    """The engine that the request names.

    Raises:
        UserErrors: as `must_run`.
    """
    must_run(request)
    return engine_class(request.engine)(request)
