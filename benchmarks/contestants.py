"""Who takes part: our forms of the network and what other stacks make of nnU-Net's own, all run by predict.py."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unet3d.devices import host
from unet3d.errors import BenchmarkError, messages_of
from unet3d.planning.plan import plan

IPEX_MISSING = (
    "no interpreter with Intel Extension for PyTorch was given; python3 -m venv .venv-ipex && "
    ".venv-ipex/bin/pip install -r requirements-ipex.txt, then --ipex-python .venv-ipex/bin/python"
)


@dataclass(frozen=True)
class Contestant:
    """One way of running the network; `ours` or a stock peer, `settings` are flags of predict.py."""

    name: str
    what: str
    ours: bool
    settings: tuple[str, ...]
    python: str = sys.executable
    ipex: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of its process beside ours


# Freed memory stays with the process. Otherwise glibc gives each layer's output back to the kernel and has its pages
# cleared again at the next: 18% of a stock stack's time, which a user can save by these two variables.
MEMORY_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}

GPU_PRECISIONS = ("fp16", "bf16", "int8", "fp32")

EXPORTED = "nnU-Net's module by PyTorch's ONNX exporter"
# ONNX Runtime has no option for it, and TensorRT takes TF32 for fp32 by itself.
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}


def _contestant(
    name: str,
    what: str,
    engine: str,
    precision: str,
    *more: str,
    ours: bool = False,
    python: str = sys.executable,
    ipex: bool = False,
) -> Contestant:
    network = () if engine == "onnxruntime" else ("--network", "fast" if ours else "reference")
    # Stock software is timed as it is, also where its output at full size is known to be off.
    unchecked = () if ours else ("--full-size-check", "no")
    return Contestant(
        f"{'ours' if ours else 'stock'}-{name}-{precision}",
        what,
        ours,
        ("--engine", engine, "--precision", precision, *network, *unchecked, *more),
        python,
        ipex,
    )


def on_cpu(ipex_python: str | None) -> list[Contestant]:
    """Those on a CPU in the order in which a round runs them; half precision where the CPU has it, else fp32."""
    halves = ("bf16",) if host.bf16_instructions() else ()
    half = next(iter(halves), "fp32")
    compiled, traced = ("--jit", "compile"), ("--jit", "trace")
    contestants: list[Contestant] = []
    for precision in ("int8", *halves, "fp32"):
        stock = _contestant("openvino", "nnU-Net's module by OpenVINO's converter, NNCF's presets", "openvino", precision)
        contestants += [
            _contestant("torch", "our layers, torch.jit.trace and freeze", "torch", precision, *traced, ours=True),
            _contestant("openvino", "our graph", "openvino", precision, ours=True),
            stock,
            replace(
                stock,
                name=f"stock-openvino-kept-{precision}",
                what=f"{stock.what}, freed memory kept",
                environment=MEMORY_KEPT,
            ),
        ]
    return [
        *contestants,
        _contestant("torch-compile", "nnU-Net's module, torch.compile", "torch", half, *compiled),
        _contestant("torch-trace", "nnU-Net's module, torch.jit.trace and freeze", "torch", half, *traced),
        _contestant(
            "ipex-trace",
            "nnU-Net's module, ipex.optimize, trace and freeze",
            "torch",
            half,
            *traced,
            "--ipex",
            "yes",
            python=ipex_python or "",
            ipex=True,
        ),
        _contestant("onnxruntime", EXPORTED, "onnxruntime", "fp32"),
    ]


def on_gpu(precisions: Sequence[str]) -> list[Contestant]:
    """Those on a GPU: nnU-Net's module and our network in PyTorch, and the module in ONNX Runtime, in each precision."""
    tuned = {"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}
    return [
        replace(contestant, environment=environment)
        for precision in precisions
        for contestant, environment in (
            *(
                (_contestant(name, what, "torch", precision, "--jit", jit, ours=ours), environment)
                for name, what, jit, ours, environment in (
                    ("eager", "nnU-Net's module as it is", "none", False, {}),
                    ("torch-compile", "nnU-Net's module, torch.compile", "compile", False, {}),
                    ("torch-compile-max-autotune", "nnU-Net's module, torch.compile, max-autotune", "compile", False, tuned),
                    ("torch-none", "our network, each kernel launched by itself", "none", True, {}),
                    ("torch-trace", "our network, torch.jit.trace and freeze", "trace", True, {}),
                    ("torch-compile", "our network, torch.compile", "compile", True, {}),
                )
            ),
            *(
                (_contestant(name, f"{EXPORTED}, {shown}", "onnxruntime", precision, "--onnx-provider", provider), environment)
                for name, shown, provider, environment in (
                    ("onnxruntime", "CUDA", "cuda", {}),
                    ("onnxruntime-tensorrt", "TensorRT", "tensorrt", NO_TF32),
                )
            ),
        )
    ]


def chosen(everyone: Sequence[Contestant], only: str | None, problems: list[str]) -> list[Contestant]:
    """Those that `only` names, separated by commas; all where it is None. Unknown names are added to `problems`."""
    if only is None:
        return list(everyone)
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [contestant.name for contestant in everyone]
    problems += [f"--only: {name!r} is not a contestant; use {', '.join(known)}" for name in names if name not in known]
    return [contestant for contestant in everyone if contestant.name in names]


def why_not(contestant: Contestant, words: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Why this contestant cannot run on this machine, None if it can."""
    if contestant.ipex:
        return _without_ipex(contestant.python)
    try:
        with _variables(contestant.environment):
            plan([*words, *contestant.settings], environ)
    except BenchmarkError as error:
        return "; ".join(messages_of(error))
    return None


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """The process's variables are those that a contestant's own would have, as far as an engine looks at them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, text in before.items():
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text


def _without_ipex(python: str) -> str | None:
    if not python:
        return IPEX_MISSING
    if not Path(python).is_file():
        return f"{python} is not an interpreter; {IPEX_MISSING}"
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('intel_extension_for_pytorch') is None)"
    installed = subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0
    return None if installed else f"{python} has no intel-extension-for-pytorch; pip install -r requirements-ipex.txt there"
