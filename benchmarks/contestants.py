"""Who takes part: our forms of the network and what other stacks make of nnU-Net's own, all run by predict.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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


def everyone(ipex_python: str | None) -> list[Contestant]:
    """All contestants in the order in which a round runs them; half precision where the CPU has it, else fp32."""
    half = "bf16" if host.bf16_instructions() else "fp32"

    def one(name: str, what: str, engine: str, precision: str, *more: str, ours: bool = False, **rest: object) -> Contestant:
        network = () if engine == "onnxruntime" else ("--network", "fast" if ours else "reference")
        return Contestant(
            f"{'ours' if ours else 'stock'}-{name}-{precision}",
            what,
            ours,
            ("--engine", engine, "--precision", precision, *network, *more),
            **rest,
        )

    return [
        one("openvino", "our graph, calibrated for int8", "openvino", "int8", ours=True),
        one("openvino", "nnU-Net's module by OpenVINO's converter, NNCF's default presets", "openvino", "int8"),
        one("openvino", "our graph", "openvino", half, ours=True),
        one("openvino", "nnU-Net's module by OpenVINO's converter", "openvino", half),
        one("torch-compile", "our network, torch.compile", "torch", half, "--jit", "compile", ours=True),
        one("torch-compile", "nnU-Net's module, torch.compile", "torch", half, "--jit", "compile"),
        one("torch-trace", "nnU-Net's module, torch.jit.trace and freeze", "torch", half, "--jit", "trace"),
        one(
            "ipex-trace",
            "nnU-Net's module, ipex.optimize, trace and freeze",
            "torch",
            half,
            "--jit",
            "trace",
            "--ipex",
            "yes",
            python=ipex_python or "",
            ipex=True,
        ),
        one("onnxruntime", "nnU-Net's module by PyTorch's ONNX exporter", "onnxruntime", "fp32"),
    ]


def why_not(contestant: Contestant, words: Sequence[str], environ: dict[str, str]) -> str | None:
    """Why this contestant cannot run on this machine, None if it can."""
    if contestant.ipex:
        return _without_ipex(contestant.python)
    try:
        plan([*words, *contestant.settings], environ)
    except BenchmarkError as error:
        return "; ".join(messages_of(error))
    return None


def _without_ipex(python: str) -> str | None:
    if not python:
        return IPEX_MISSING
    if not Path(python).is_file():
        return f"{python} is not an interpreter; {IPEX_MISSING}"
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('intel_extension_for_pytorch') is None)"
    found = subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0
    return None if found else f"{python} has no intel-extension-for-pytorch; pip install -r requirements-ipex.txt there"
