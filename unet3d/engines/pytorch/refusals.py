"""Why PyTorch cannot run a request on this machine, and what to use instead."""

from __future__ import annotations

import importlib.util

from unet3d.devices import host
from unet3d.engines.base import NEEDS_CALIBRATION, EngineSettings, Request
from unet3d.engines.pytorch import onednn
from unet3d.network.cpu_ops import build


def tuning(asked: EngineSettings) -> list[str]:
    """The first reason why there are no forms to choose from, where TUNE=yes asks for a choice; imports nothing heavy."""
    if not asked.tune:
        return []
    needed = "TUNE=yes times the forms that our network has on a GPU"
    if asked.platform == "CPU":
        return [f"{needed}, with PLATFORM=CPU there is one; use TUNE=no, or PLATFORM=CUDA, Flex or Max"]
    if asked.network == "reference":
        return [f"{needed}, with NETWORK=reference there is one; use TUNE=no or NETWORK=fast"]
    if asked.ipex:
        return [f"{needed}, with IPEX=yes there is one; use TUNE=no or IPEX=no"]
    if asked.precision == "fp32":
        return [f"{needed}, in fp32 there is one; use TUNE=no, or PRECISION=fp16 or bf16"]
    return []


def on_machine(request: Request) -> list[str]:
    """One line for each reason why PyTorch cannot run the request here. May compile the CPU's operators to know."""
    reasons = []
    if request.ipex and importlib.util.find_spec("intel_extension_for_pytorch") is None:
        reasons.append(
            "IPEX=yes, but intel-extension-for-pytorch is not installed; pip install -r requirements-ipex.txt, or use IPEX=no"
        )
    if request.tune and importlib.util.find_spec("triton") is None:
        reasons.append("TUNE=yes, but Triton is not installed; install the triton that belongs to this torch, or use TUNE=no")
    if request.device.is_host:
        reasons += _on_cpu(request)
    elif request.precision == "int8":
        reasons += _int8_on_gpu(request)
    return reasons


def _int8_on_gpu(request: Request) -> list[str]:
    from unet3d.network.cuda_ops import kernels

    if why := kernels.why_not(request.device.properties().architecture):
        return [
            f"PRECISION=int8 with ENGINE=torch on a GPU needs our CUDA kernels, but {why}; use PRECISION=fp16, or "
            "ENGINE=openvino on an Intel GPU"
        ]
    return _int8_on_any(request)


def _int8_on_any(request: Request) -> list[str]:
    """What int8 needs on every device."""
    reasons = []
    if request.network != "fast" or request.ipex:
        reasons.append("PRECISION=int8 with ENGINE=torch needs NETWORK=fast and IPEX=no")
    if request.calibration is None:
        reasons.append(NEEDS_CALIBRATION)
    return reasons


def _on_cpu(request: Request) -> list[str]:
    if request.precision == "int8":
        return _int8_on_cpu(request)
    if request.precision not in onednn.HALF_NEEDS or onednn.computes(request.precision):
        return []
    # Only now: this may have to compile the operators.
    if request.network == "fast" and not request.ipex and build.computes(request.precision)[0] == "native":
        return []
    needs = f"a CPU with {onednn.HALF_NEEDS[request.precision]}"
    other = "bf16" if request.precision == "fp16" and onednn.computes("bf16") else "fp32"
    return [
        f"PRECISION={request.precision} with ENGINE=torch needs {needs}, without it PyTorch takes hours per volume; "
        f"use PRECISION={other}"
    ]


def _int8_on_cpu(request: Request) -> list[str]:
    reasons = []
    if "amx_int8" not in host.cpu_flags():
        reasons.append("PRECISION=int8 with ENGINE=torch needs a CPU with AMX; use ENGINE=openvino, or PRECISION=bf16 or fp32")
    elif not (build.available() and build.amx()):
        why = (
            "they were built without AMX, or the system keeps the tiles from this process"
            if build.available()
            else build.status()[1]
        )
        reasons.append(
            f"PRECISION=int8 with ENGINE=torch needs our C++ operators with AMX: {why}; use ENGINE=openvino, or "
            "PRECISION=bf16 or fp32"
        )
    return [*reasons, *_int8_on_any(request)]
