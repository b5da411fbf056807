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


must_run = check


def refuse_settings(asked) -> list[str]:
    problems = []
    if asked.precision == "int8" and asked.engine != "openvino":
        problems.append(f"PRECISION=int8 with ENGINE={asked.engine} is not possible; int8 runs on ENGINE=openvino")
    if asked.engine == "onnxruntime" and asked.precision not in (None, "fp32"):
        problems.append(
            f"PRECISION={asked.precision} with ENGINE=onnxruntime is not possible, its CPU kernels for "
            "3D convolutions are fp32; use PRECISION=fp32 or ENGINE=openvino"
        )
    if asked.engine != "torch" and asked.sources["jit"] != "default" and asked.jit != "none":
        problems.append(
            f"JIT={asked.jit} with ENGINE={asked.engine} is not possible; JIT is PyTorch's, use JIT=none or ENGINE=torch"
        )
    if asked.engine != "torch" and asked.ipex:
        problems.append(f"IPEX=yes with ENGINE={asked.engine} is not possible; use IPEX=no or ENGINE=torch")
    if asked.ipex and asked.platform == "CUDA":
        problems.append("IPEX=yes with PLATFORM=CUDA is not possible; it is for Flex, Max and CPU, use IPEX=no")
    return problems
