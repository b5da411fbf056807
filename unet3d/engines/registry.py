"""Engines: one file each, found by name; importing this imports none of them."""

from __future__ import annotations

import importlib

from unet3d.engines.base import Engine, Request
from unet3d.errors import UserErrors

_CLASSES = {
    "torch": ("unet3d.engines.pytorch.engine", "TorchEngine"),
    "openvino": ("unet3d.engines.openvino.engine", "OpenVINOEngine"),
    "onnxruntime": ("unet3d.engines.onnxruntime.engine", "OnnxRuntimeEngine"),
}


def engine_class(name: str) -> type[Engine]:
    module, cls = _CLASSES[name]
    return getattr(importlib.import_module(module), cls)


def check(request: Request) -> None:
    """Whether the engine that the request names can run it; imports nothing heavy.

    Raises:
        UserErrors: with every reason why it cannot run on this machine.
    """
    reasons = engine_class(request.engine).refuse(request)
    if reasons:
        raise UserErrors(reasons)


def create(request: Request) -> Engine:
    """The engine that the request names.

    Raises:
        UserErrors: as `check`.
    """
    check(request)
    return engine_class(request.engine)(request)
