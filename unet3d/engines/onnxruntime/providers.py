"""What ONNX Runtime runs a graph on: its execution providers, with which options, and what was assigned to which.

Nothing here is left to its fallbacks. Of a provider that cannot be loaded ONNX Runtime only warns and takes the CPU, and of a
node that a provider has no kernel for it says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from unet3d.config.precisions import name_of_type
from unet3d.engines.base import Request
from unet3d.engines.onnxruntime.export import EXTENTS
from unet3d.engines.onnxruntime.operators import CONVOLUTIONS, TRANSPOSED
from unet3d.errors import MismatchError, UserError

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime

CPU = "CPUExecutionProvider"
# By the names of ONNX_PROVIDER.
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
SHOWN = {"cuda": "CUDA", "tensorrt": "TensorRT"}
INSTALL = {
    "cuda": "pip install -r requirements-onnxruntime-gpu.txt",
    "tensorrt": "pip install -r requirements-onnxruntime-tensorrt.txt",
}

# The fastest algorithm of each convolution is searched for, with all the memory that it wants. Memory is taken in the sizes
# that are needed: the default doubles them. TF32 would make fp32 a label for products with 10 bits of mantissa.
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "cudnn_conv_use_max_workspace": "1",
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": "0",
}


def chosen(request: Request) -> str | None:
    """Which of ONNX_PROVIDER's the request runs on; None on the host."""
    return None if request.device.is_host else request.onnx_provider or "cuda"


def asked_of(request: Request, stream: int | None) -> list[tuple[str, dict[str, str]]]:
    """Providers with their options, the preferred one first. stream: address of the CUDA stream to run on."""
    name = chosen(request)
    if name is None:
        return [(CPU, {})]
    place = {"device_id": str(request.device.index), "user_compute_stream": str(stream)}
    providers = [(PROVIDERS["cuda"], {**place, **CUDA_OPTIONS})]
    if name == "tensorrt":
        # It allows fp16 for a layer, and does not forbid fp32.
        halves = {"trt_fp16_enable": str(request.precision == "fp16")}
        providers.insert(0, (PROVIDERS["tensorrt"], {**place, **halves}))
    return providers


class Node(NamedTuple):
    """A node of the graph as it was partitioned, before fusions within a provider."""

    provider: str
    operator: str
    name: str


def nodes(session: onnxruntime.InferenceSession) -> Iterator[Node]:
    """Every node of a session with the provider that it was assigned to."""
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            yield Node(part.ep_name, node.op_type, node.name)


def open_session(
    path: Path,
    options: onnxruntime.SessionOptions,
    request: Request,
    shape: tuple[int, ...] | None = None,
    stream: int | None = None,
) -> onnxruntime.InferenceSession:
    """A session that runs on what was asked for, every convolution in the graph's own data type.

    shape: [N, modality, z, y, x] to make it for; None: any. stream: as for `asked_of`.

    Raises:
        UserError: where the provider cannot be loaded.
        MismatchError: where a convolution, or on a GPU any node, is left to the CPU, or the data type changes on the way.
    """
    import onnxruntime

    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if shape is not None:
        for axis, name in EXTENTS.items():
            options.add_free_dimension_override_by_name(name, shape[axis])
    providers = asked_of(request, stream)
    session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    _must_be_loaded(session, request, [name for name, _ in providers])
    _must_be_assigned(list(nodes(session)), providers[0][0], on_host=request.device.is_host)
    if request.precision == "fp32" and not request.device.is_host:
        _must_multiply_in_fp32(session)
    return session


def _must_be_loaded(session: onnxruntime.InferenceSession, request: Request, wanted: list[str]) -> None:
    there, name = session.get_providers(), chosen(request)
    if missing := [provider for provider in wanted if provider not in there]:
        mend = f"its own message says why, {INSTALL[name]} brings what it needs" if name else "use ENGINE=torch or openvino"
        raise UserError(
            f"ENGINE=onnxruntime: ONNX Runtime could not load its {' and '.join(missing)}, only {', '.join(there)}; {mend}"
        )


def _must_be_assigned(assigned: list[Node], provider: str, on_host: bool) -> None:
    convolutions = [node for node in assigned if node.operator in (*CONVOLUTIONS, *TRANSPOSED)]
    astray = [node for node in convolutions if node.provider != provider]
    if not on_host:
        astray += [node for node in assigned if node.provider == CPU and node not in astray]
    if not convolutions:
        raise MismatchError("onnxruntime: the session tells of no convolution, so what ran is unknown; use ENGINE=torch")
    if astray:
        where = ", ".join(f"{node.operator} {node.name} on {node.provider}" for node in astray[:3])
        more = f" and {len(astray) - 3} more" if len(astray) > 3 else ""
        raise MismatchError(
            f"onnxruntime: {provider} was asked for, but it leaves {where}{more}: no number is reported, use ENGINE=torch"
        )
    if casts := [node for node in assigned if node.operator == "Cast"]:
        raise MismatchError(
            f"onnxruntime: {provider} changes the data type {len(casts)} times on the way, since it lacks kernels for the "
            "graph's; no number is reported, use PRECISION=fp32 or ENGINE=torch"
        )


def _must_multiply_in_fp32(session: onnxruntime.InferenceSession) -> None:
    told = session.get_provider_options()[PROVIDERS["cuda"]]
    if told.get("use_tf32") != "0":
        raise MismatchError(
            f"onnxruntime: PRECISION=fp32 was asked for, but its CUDA provider says use_tf32={told.get('use_tf32')}: "
            "no number is reported, use ENGINE=torch"
        )


def precision_of(session: onnxruntime.InferenceSession) -> str:
    """The precision of a session that was opened here: one data type from its input to its output."""
    return name_of_type(session.get_inputs()[0].type.removeprefix("tensor(").removesuffix(")"))


def told_of(session: onnxruntime.InferenceSession, request: Request) -> dict[str, object]:
    """Providers, the nodes of each, and on a GPU the options that were asked for, as the session tells them."""
    details: dict[str, object] = {
        "providers": session.get_providers(),
        "nodes": dict(Counter(node.provider for node in nodes(session))),
    }
    if not request.device.is_host:
        told = session.get_provider_options()
        details["provider_options"] = {
            name: {key: told[name].get(key) for key in options if key != "user_compute_stream"}
            for name, options in asked_of(request, None)
        }
    if chosen(request) == "tensorrt" and request.precision == "fp16":
        details["layer_types"] = "chosen by TensorRT among fp16 and fp32"
    return details
