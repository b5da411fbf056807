"""What the machine decides where the user did not. Each such value carries its reason, which banner and results show."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from unet3d import places
from unet3d.config.names import ONNX_PROVIDERS
from unet3d.config.values import Asked, Settings
from unet3d.devices import host, platforms, process
from unet3d.devices.base import Device
from unet3d.engines import registry
from unet3d.errors import UserErrors
from unet3d.planning import placement

Value = TypeVar("Value")

IPEX = "intel_extension_for_pytorch"


@dataclass
class Decisions:
    """Why the machine decided what the user left open, and what has to be said about it."""

    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def fill(self, name: str, asked: Value | None, value: Value, reason: str) -> Value:
        """What the user asked for, else `value` for this reason."""
        if asked is not None:
            return asked
        self.reasons[name] = reason
        return value


@dataclass(frozen=True)
class Resolved:
    """Complete settings, the device they run on, and (name, text) of what has to be said."""

    settings: Settings
    device: Device
    warnings: tuple[tuple[str, str], ...]


def complete(asked: Asked) -> Resolved:
    """Everything filled in that depends on the machine.

    Raises:
        UserErrors: what this machine cannot run, a line each.
    """
    decisions = Decisions()
    device, detected, reason = platforms.select(asked.platform)
    platform = decisions.fill("platform", asked.platform, detected, reason)
    threads = decisions.fill("threads", asked.threads, host.usable_cores(), "physical cores that this process may use")
    counts, problems = placement.counts(asked, platform, threads, decisions.fill)
    problems += _too_many_threads(asked)
    if asked.streams > threads and platform == "CPU":
        problems.insert(
            0,
            f"STREAMS={asked.streams} is more than the {threads} CPU threads; lower STREAMS or raise THREADS",
        )
    values: dict[str, Any] = asked.values() | {
        "platform": platform,
        "threads": threads,
        "precision": _precision(asked, platform, decisions),
        "ipex": _ipex(asked, platform, decisions),
        "weights": _weights(asked, decisions),
        "devices": counts.devices,
        "instances": counts.instances,
    }
    if registry.engine_class(asked.engine).jits == ("none",):
        values["jit"] = "none"
        decisions.reasons["jit"] = f"ENGINE={asked.engine} compiles by itself"
    if platform in registry.engine_class(asked.engine).onnx_platforms:
        reason = "the provider that needs no other package"
        values["onnx_provider"] = decisions.fill("onnx_provider", asked.onnx_provider, ONNX_PROVIDERS[0], reason)
    if asked.dataset_dir is not None:
        values["preprocessed_dir"] = asked.preprocessed_dir or _store(asked, values["precision"], decisions)
    if asked.node_rank:
        values["output_dir"] = asked.output_dir / f"node{asked.node_rank}"
        decisions.reasons["output_dir"] = "node 0 writes the results"
    if problems:
        raise UserErrors(problems)
    settings = Settings(**values, sources=asked.sources, reasons=decisions.reasons)
    return Resolved(settings, device, tuple(decisions.warnings))


def _too_many_threads(asked: Asked) -> list[str]:
    """What of THREADS and STREAMS cannot be started here, or would only wait; a line each."""
    most, problems = 2 * host.logical_cpus(), []
    for name, wanted in (("THREADS", asked.threads or 1), ("STREAMS", asked.streams)):
        if wanted > most:
            problems.append(f"{name}={wanted} is more than twice the {most // 2} CPUs of this machine; use 1 to {most}")
    if not problems and not process.can_start(wanted := max(asked.threads or 1, asked.streams)):
        problems.append(
            f"{wanted} threads cannot be started here; lower THREADS or STREAMS, or raise ulimit -u or the container's limit "
            "of processes"
        )
    return problems


def _precision(asked: Asked, platform: str, decisions: Decisions) -> str:
    precisions = registry.engine_class(asked.engine).precisions_on(platform)
    if len(precisions) == 1:
        value, reason = precisions[0], f"the only one that ENGINE={asked.engine} has for 3D convolutions on {platform}"
    elif platform != "CPU":
        value, reason = "fp16", f"default on {platform}"
    elif instructions := host.bf16_instructions():
        value, reason = "bf16", f"this CPU has {instructions}"
    else:
        value, reason = "fp32", "this CPU has neither AMX nor AVX512-BF16"
    return decisions.fill("precision", asked.precision, value, reason)


def _store(asked: Asked, precision: str, decisions: Decisions) -> Path:
    from unet3d.brats import preprocessing

    assert asked.dataset_dir is not None
    # Volumes to calibrate int8 with are of other folds.
    fold = None if precision == "int8" else asked.fold
    folder, reason = preprocessing.choose_store(asked.dataset_dir, asked.output_dir, fold)
    return decisions.fill("preprocessed_dir", None, folder, reason)


def _weights(asked: Asked, decisions: Decisions) -> str:
    if places.FETCHED_WEIGHTS.exists():
        return decisions.fill("weights", asked.weights, str(places.FETCHED_WEIGHTS), "fetched by setup.sh")
    return decisions.fill("weights", asked.weights, "random", "setup.sh has fetched none")


def _ipex(asked: Asked, platform: str, decisions: Decisions) -> bool:
    installed = importlib.util.find_spec(IPEX) is not None
    if platform not in ("Flex", "Max") or not registry.engine_class(asked.engine).has_ipex:
        return decisions.fill("ipex", asked.ipex, False, f"default on {platform}")
    if installed:
        return decisions.fill("ipex", asked.ipex, True, f"installed, default on {platform}")
    if asked.ipex is None:
        decisions.warnings.append(
            (
                "ipex-missing",
                "Intel Extension for PyTorch is not installed: native torch.xpu is measured. Install "
                "requirements-ipex.txt to measure it, or set IPEX=no.",
            )
        )
    return decisions.fill("ipex", asked.ipex, False, "not installed; native torch.xpu is used")
