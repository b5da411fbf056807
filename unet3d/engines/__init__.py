"""Engines: one file each, found by name; importing this imports none of them."""

from __future__ import annotations

import importlib

from unet3d.engines.base import Engine, Request
from unet3d.errors import UserErrors

_CLASSES = {
    "torch": ("unet3d.engines.torch_engine", "TorchEngine"),
    "openvino": ("unet3d.engines.openvino_engine", "OpenVINOEngine"),
    "onnxruntime": ("unet3d.engines.onnxruntime_engine", "OnnxRuntimeEngine"),
}


def engine_class(name: str) -> type[Engine]:
    module, cls = _CLASSES[name]
    return getattr(importlib.import_module(module), cls)


def create(request: Request) -> Engine:
    """The engine that the request names.

    Raises:
        UserErrors: with every reason why it cannot run on this machine.
    """
    cls = engine_class(request.engine)
    reasons = cls.refuse(request)
    if reasons:
        raise UserErrors(reasons)
    return cls(request)
