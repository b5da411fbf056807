"""Which configurations to run: the sensible ones for this machine. See `grid_file` for those of a file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unet3d.config import kinds
from unet3d.config.names import ONNX_PROVIDERS
from unet3d.config.parse import Given
from unet3d.config.precisions import PRECISIONS
from unet3d.config.settings import BY_NAME
from unet3d.config.values import Settings
from unet3d.devices import host
from unet3d.engines import registry
from unet3d.errors import UserError

# The likely fastest first.
FASTEST = ("torch", "openvino", "int8", "fp16", "bf16")
# Values of these settings say by themselves what they are; others carry the setting's name in a configuration's name.
PLAIN = ("platform", "engine", "onnx_provider", "precision", "jit")


@dataclass(frozen=True)
class Configuration:
    """Settings of one run beside those that all runs share: texts by setting name; `where` is for messages."""

    name: str
    settings: Mapping[str, str]
    where: str = ""

    @property
    def flags(self) -> list[str]:
        return [word for name, text in self.settings.items() for word in (BY_NAME[name].flag, text)]


def named(settings: Mapping[str, str]) -> str:
    """A folder's name that tells the settings: torch-bf16-compile-streams-2."""
    words = [text if name in PLAIN else f"{name.replace('_', '-')}-{text}" for name, text in settings.items()]
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")[:100]


def _fastest_first(names: Iterable[str]) -> tuple[str, ...]:
    """Names of engines or precisions, those that nothing is known of last."""
    return tuple(sorted(names, key=lambda name: FASTEST.index(name) if name in FASTEST else len(FASTEST)))


def default(given: Mapping[str, Given], platform: str, cores: int, numa_nodes: int) -> list[Configuration]:
    """Engines x precisions x JIT x streams, the likely fastest first; what the user has set is not varied.

    Holds also what this machine cannot run: the caller asks each engine and reports its reason.
    """
    on_cpu = platform == "CPU"
    axes: dict[str, tuple[str, ...]] = {
        "engine": _fastest_first(registry.names()),
        "onnx_provider": ONNX_PROVIDERS,
        # The few CPUs that compute fp16 compute bf16 too.
        "precision": _fastest_first(name for name in PRECISIONS if name != "fp16" or not on_cpu),
        "jit": ("compile", "trace", "none"),
        "ipex": ("no", "yes"),
        "streams": tuple(map(str, stream_counts(cores, numa_nodes) if on_cpu else (1, 2))),
    }
    fixed = {name: kinds.show(given[name].value) for name in axes if given[name].source != "default"}
    configurations: dict[str, Configuration] = {}
    for values in itertools.product(*((fixed[name],) if name in fixed else axes[name] for name in axes)):
        shown = dict(zip(axes, values, strict=True))
        if platform not in registry.engine_class(shown["engine"]).onnx_platforms:
            del shown["onnx_provider"]
        if registry.engine_class(shown["engine"]).jits == ("none",):
            del shown["jit"], shown["ipex"]
        elif shown["ipex"] == "yes" and shown["jit"] != "trace" and "jit" not in fixed:
            continue  # IPEX's own fusions work on a trace
        elif shown["ipex"] == "no" and on_cpu:
            del shown["ipex"]
        name = named(shown)
        varied = {key: text for key, text in shown.items() if key not in fixed}
        configurations.setdefault(name, Configuration(name, varied, name))
    return list(configurations.values())


def must_make_sense(settings: Settings) -> None:
    """Refuse what runs on this machine but cannot be the fastest on it; a grid file or a setting runs it nevertheless.

    Raises:
        UserError: with the reason.
    """
    slow = settings.platform == "CPU" and settings.precision == "bf16" and host.bf16_instructions() is None
    if slow:
        raise UserError(
            "PRECISION=bf16 cannot be expected to be faster than fp32 on this CPU, which has neither AMX nor AVX512-BF16; "
            "set it to measure it"
        )


def stream_counts(cores: int, numa_nodes: int) -> list[int]:
    """Numbers of streams worth a run on a CPU: one, one a NUMA node, one for four cores, and on few cores one a core."""
    counts = {1, numa_nodes, cores // 4}
    if cores <= 4:
        counts.add(cores)
    return sorted(count for count in counts if 1 <= count <= cores)
