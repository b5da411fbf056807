"""Which form of the network PyTorch runs for a request: the one place that decides it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unet3d.config.precisions import PRECISIONS
from unet3d.engines.base import Request
from unet3d.network.cpu_ops import build

if TYPE_CHECKING:
    import torch
    from torch import nn

    from unet3d.network.flops import Executed
    from unet3d.network.quantization import Ranges

# What Inductor is told for forms whose operators are kernels of their own: there is nothing for it to fuse.
GRAPH_ONLY = "aot_eager"
INDUCTOR = "inductor"
# IPEX's own on a CPU, where Inductor knows neither its layers nor its operators.
IPEX_ON_CPU = "ipex"


@dataclass
class Form:
    """A network in the form that runs, and what has to be known of it."""

    module: nn.Module
    # Its weights are in the precision, whatever AMP says, and it keeps to a layout of its own.
    casts_itself: bool = False
    operators: str = "PyTorch's"
    compile_backend: str = INDUCTOR
    convolutions: Callable[[], dict[str, str]] | None = None  # how each convolution, or each kind of them, is computed
    chosen_by: str | None = None  # where the choice of these forms is from, where there was one
    # What each of our operators multiplies for a batch of a shape, in order of execution.
    executed: Callable[[Sequence[int]], list[Executed]] | None = None
    # Gives back what memory it keeps from one call to the next.
    release: Callable[[], object] | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)
    load_seconds: dict[str, float] = field(default_factory=dict)


def stored_precision(precision: str) -> str:
    """That of tensors: int8 products are of tensors that are kept in bf16."""
    return "bf16" if precision == "int8" else precision


def storage_type(precision: str) -> torch.dtype:
    """PyTorch's name of `stored_precision`."""
    return PRECISIONS[stored_precision(precision)].dtype()


def choose(request: Request, reference: nn.Module) -> Form:
    """nnU-Net's own module, or the form that is fastest on the request's device.

    Raises:
        UserError: when volumes to calibrate int8 with cannot be read.
    """
    backend = IPEX_ON_CPU if request.ipex and request.device.is_host else INDUCTOR
    if request.network == "reference":
        return Form(copy.deepcopy(reference), compile_backend=backend)
    from unet3d.network.inference import InferenceUNet

    if request.ipex:
        # IPEX replaces the layers, whose weights ours would read.
        return Form(InferenceUNet.from_reference(reference), compile_backend=backend)
    if request.device.is_host:
        return _for_cpu(request, reference)
    if importlib.util.find_spec("triton") is None:
        return Form(
            InferenceUNet.from_reference(reference),
            warnings=[
                (
                    "stock-kernels",
                    "Triton is not installed, so the network runs with PyTorch's own "
                    "operators, slower than it could; install the triton that belongs to this torch.",
                )
            ],
        )
    return _for_gpu(request, reference)


def _for_gpu(request: Request, reference: nn.Module) -> Form:
    from unet3d.engines.pytorch import tuned
    from unet3d.network.cuda_ops import kernels
    from unet3d.network.gpu import GpuUNet
    from unet3d.network.gpu_forms import geometries
    from unet3d.network.inference import InferenceUNet

    architecture = request.device.properties().architecture
    warnings: list[tuple[str, str]] = []
    ranges: dict[str, Ranges] | None = None
    seconds: dict[str, float] = {}
    why = kernels.why_not(architecture)
    if why is not None and architecture == kernels.ARCHITECTURE and request.precision != "fp32":
        told = f"our CUDA kernels cannot be used: {why}; Triton's and the library's run instead, slower than it could."
        warnings.append(("no-cuda-kernels", f"{told} {kernels.REMEDY}"))
    if request.precision == "int8":
        from unet3d.engines.pytorch import int8

        ranges, seconds = int8.ranges(reference, request)
    inference, dtype = InferenceUNet.from_reference(reference), storage_type(request.precision)
    chosen = tuned.choose(request, geometries(inference, request.shape, ranges), dtype)
    network = GpuUNet(inference, dtype, chosen.choice.choose, ranges, request.shape).eval()
    # Inductor needed more than 85 s for it without coming to an end on torch 2.11.
    return Form(
        network,
        casts_itself=True,
        compile_backend=GRAPH_ONLY,
        convolutions=network.forms,
        chosen_by=chosen.choice.source,
        executed=network.executed,
        warnings=[*warnings, *chosen.warnings],
        load_seconds=seconds | chosen.seconds,
    )


def _for_cpu(request: Request, reference: nn.Module) -> Form:
    from unet3d.network.inference import InferenceUNet

    kind, told = build.computes(stored_precision(request.precision))
    if kind == "fallback":
        return Form(
            InferenceUNet.from_reference(reference),
            operators=f"{kind}: {told}",
            warnings=[("fallback-operators", f"PyTorch's operators ran instead of ours: {told}. {build.REMEDY}")],
        )
    from unet3d.network.cpu import CpuUNet
    from unet3d.network.cpu_ops import ops

    ranges: dict[str, Ranges] | None = None
    seconds: dict[str, float] = {}
    if request.precision == "int8":
        from unet3d.engines.pytorch import int8

        ranges, seconds = int8.ranges(reference, request)
    network = CpuUNet.from_reference(reference, storage_type(request.precision), ranges)
    return Form(
        network,
        casts_itself=True,
        operators=f"{kind}: {told}",
        compile_backend=GRAPH_ONLY,
        convolutions=network.forms,
        executed=network.executed,
        release=ops.release_kept,
        load_seconds=seconds,
    )
