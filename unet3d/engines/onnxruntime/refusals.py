"""Why ONNX Runtime cannot run a request on this machine, and what to use instead."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

from unet3d.engines.base import Request
from unet3d.engines.onnxruntime.providers import INSTALL, PROVIDERS, SHOWN, chosen

INSTALL_ON_CPU = "pip install -r requirements-onnxruntime.txt"
# Reads of it by NVIDIA's libraries, TensorRT among them, are before the first kernel: a process must be started with it.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"


def on_machine(request: Request) -> list[str]:
    """One line for each reason why ONNX Runtime cannot run the request here. May load it to know its providers."""
    if request.device.is_host:
        return _on_cpu(request)
    if request.device.kind != "cuda":
        return [f"ENGINE=onnxruntime on {request.device.kind} is not possible; use PLATFORM=CPU or CUDA, or ENGINE=torch"]
    reasons = _lacking_on_gpu(request)
    if request.precision == "fp32" and chosen(request) == "tensorrt" and os.environ.get(TF32_VARIABLE) != "0":
        reasons.append(
            "PRECISION=fp32 with ONNX_PROVIDER=tensorrt would multiply in TF32, which nothing but its environment forbids "
            f"TensorRT; set {TF32_VARIABLE}=0, or use PRECISION=fp16 or ONNX_PROVIDER=cuda"
        )
    if request.profile:
        reasons.append(
            "PROFILE=yes with ENGINE=onnxruntime is not possible on a GPU, its profile has the times of launches; use "
            "PROFILE=no or ENGINE=torch"
        )
    return reasons


def _on_cpu(request: Request) -> list[str]:
    reasons = []
    missing = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
    if missing:
        reasons.append(f"ENGINE=onnxruntime, but {' and '.join(missing)} is not installed; {INSTALL_ON_CPU}")
    if request.precision == "fp16":
        reasons.append(
            "PRECISION=fp16 with ENGINE=onnxruntime is not possible on a CPU, where its kernels for 3D convolutions are "
            "fp32; use PRECISION=fp32 or ENGINE=openvino"
        )
    if request.profile and request.streams > 1:
        reasons.append(
            f"PROFILE=yes with ENGINE=onnxruntime and STREAMS={request.streams} is not possible, each stream "
            "is a session that is profiled by itself; use STREAMS=1"
        )
    return reasons


def _lacking_on_gpu(request: Request) -> list[str]:
    """What is missing of the packages for a GPU, the first thing that has to be mended."""
    name = chosen(request) or "cuda"
    begin, install = f"ENGINE=onnxruntime on {SHOWN[name]}, but", INSTALL[name]
    both = [package for package in ("onnxruntime", "onnxruntime-gpu") if _installed(package)]
    if len(both) > 1:
        return [f"{begin} {' and '.join(both)} are both installed, each over the other's files; {_anew(both, install)}"]
    lacking = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
    if lacking:
        return [f"{begin} {' and '.join(lacking).replace('onnxruntime', 'onnxruntime-gpu')} is not installed; {install}"]
    try:
        import onnxruntime
    except ImportError as error:
        return [f"{begin} onnxruntime cannot be imported ({error}); {_anew(both, install)}"]
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return [f"{begin} onnxruntime-gpu is not installed, this onnxruntime is for CPUs; {_anew(both, install)}"]
    return _other_cuda(begin, onnxruntime) or (_without_tensorrt(begin, onnxruntime, install) if name == "tensorrt" else [])


def _other_cuda(begin: str, onnxruntime: object) -> list[str]:
    """Its provider takes the libraries that PyTorch has loaded, which must be of the CUDA that it was built for."""
    import torch

    own, of_torch = getattr(onnxruntime, "cuda_version", ""), torch.version.cuda or "none"
    if not own or own.split(".")[0] == of_torch.split(".")[0]:
        return []
    return [
        f"{begin} onnxruntime-gpu is built for CUDA {own} and torch for {of_torch}; install a torch for CUDA "
        f"{own.split('.')[0]} (https://pytorch.org/get-started/locally), or use ENGINE=torch"
    ]


def _without_tensorrt(begin: str, onnxruntime: object, install: str) -> list[str]:
    available = onnxruntime.get_available_providers()  # type: ignore[attr-defined] # a module
    if PROVIDERS["tensorrt"] not in available:
        return [f"{begin} this onnxruntime-gpu is built without it, it has {', '.join(available)}; {install}"]
    if importlib.util.find_spec("tensorrt") is None:
        return [f"{begin} tensorrt is not installed; {install}, or use ONNX_PROVIDER=cuda"]
    return []


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _anew(distributions: list[str], install: str) -> str:
    """The command that replaces distributions, whose files are in one folder."""
    return f"pip uninstall -y {' '.join(distributions or ['onnxruntime'])} && {install}"
