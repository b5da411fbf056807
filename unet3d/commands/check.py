"""`./run_model.sh --check`: what this machine can run, how fast that should be, and what is missing.

The rates are measured here, never taken from data sheets; the seconds are what the network's FLOP and bytes take at
those rates.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from unet3d import places
from unet3d.config import parse, table
from unet3d.devices import host
from unet3d.errors import UserErrors
from unet3d.planning import resolve

if TYPE_CHECKING:
    from unet3d.network.flops import Layer

ENGINES = ("torch", "openvino", "onnxruntime")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
PLATFORM_NAMES = {"cpu": "CPU", "cuda": "CUDA", "xpu": "Flex or Max"}
# After a convolution the normalisation reads its output for the statistics, then reads and writes it once more.
NORMALISATION_PASSES = 3
SETTINGS = (
    "platform",
    "precision",
    "engine",
    "batch_size",
    "streams",
    "threads",
    "volume_shape",
    "weights",
    "dataset_dir",
    "preprocessed_dir",
    "output_dir",
)
RESULTS_BYTES, PREPROCESSED_BYTES_A_CASE, CASES = 100e6, 55e6, 67


@dataclass(frozen=True)
class Bounds:
    """Seconds of one volume: `best` with every layer at its own ceiling, `plain` without overlap and fusion."""

    best: float
    plain: float


def main(argv: Sequence[str]) -> int:
    """Print the report; returns 0, or 2 when nothing can run.

    Raises:
        UserErrors: settings that are not allowed.
    """
    if "--help" in argv or "-h" in argv:
        print(table.help_text("./run_model.sh --check", SETTINGS))
        return 0
    given, problems = parse.parse(argv, os.environ)
    if problems:
        raise UserErrors(problems)
    value = {name: item.value for name, item in given.items()}
    if importlib.util.find_spec("torch") is None:
        print("Nothing can run: torch is not installed; ./setup.sh, or pip install -r requirements.txt")
        return 2
    runnable, lacking = what_runs(value)
    print("What this machine can run")
    for platform, engines in runnable.items():
        print(f"  {platform}: {_described(platform)}")
        for engine, precisions in engines.items():
            print(f"    {engine + ':':<13}{', '.join(precisions)}")
    if not runnable:
        print("  nothing with these settings")
    else:
        _print_speed(runnable, value)
    lacking += missing(value)
    print("\nWhat is missing" if lacking else "\nNothing is missing")
    for line in lacking:
        print(f"  {line}")
    return 0 if runnable else 2


def what_runs(value: Mapping[str, Any]) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Precisions by platform and engine, within the settings that are given; and why the others can't, a line each."""
    from unet3d.devices.base import device_class, open_device
    from unet3d.devices.platforms import KINDS, intel_platform
    from unet3d.engines.base import Request
    from unet3d.engines.registry import engine_class

    runnable: dict[str, dict[str, list[str]]] = {}
    lacking: list[str] = []
    for kind in dict.fromkeys(KINDS.values()):
        wanted = value["platform"]
        if wanted is not None and KINDS[wanted] != kind:
            continue
        if not device_class(kind).is_available():
            reason = device_class(kind).why_unavailable()
            # The class answers for a platform that was asked for; here nobody did.
            lacking.append(f"{PLATFORM_NAMES[kind]}: {reason.partition(', but ')[2] or reason}")
            continue
        device = open_device(kind)
        platform = intel_platform(device.properties().name) if kind == "xpu" else PLATFORM_NAMES[kind]
        engines: dict[str, list[str]] = {}
        for engine in ENGINES:
            reasons: list[str] = []
            for precision in (value["precision"],) if value["precision"] else PRECISIONS:
                # Calibration data is a matter of the run, not of the machine.
                request = Request(engine, device, precision, calibration=lambda: iter(()))
                refused = engine_class(engine).refuse(request)
                if refused:
                    reasons += refused
                else:
                    engines.setdefault(engine, []).append(precision)
            if engine not in engines:
                lacking += list(dict.fromkeys(text for text in reasons if "not installed" in text))
        if engines:
            runnable[platform] = engines
    return runnable, list(dict.fromkeys(lacking))


def _described(platform: str) -> str:
    from unet3d.devices.base import open_device
    from unet3d.devices.platforms import KINDS

    properties = open_device(KINDS[platform]).properties()
    instructions = host.bf16_instructions() or "no bf16 instructions, so bf16 is slow"
    units = f"{properties.compute_units} {properties.compute_unit_name}"
    return f"{properties.name}, {units}, {properties.memory_bytes / 2**30:.0f} GiB" + (
        f", {instructions}" if platform == "CPU" else f", driver {properties.driver or 'unknown'}"
    )


def bounds(layers: Iterable[Layer], tflops: float, gbs: float) -> Bounds:
    """What the layers (of `unet3d.network.flops.layers`) take at these rates, in 1e12 FLOP and 1e9 bytes a second.

    best: each layer takes the longer of its arithmetic and of reading its input and weights and writing its output
    (the roofline model of Williams, Waterman and Patterson, 2009). plain: both one after the other, and separate
    passes of the normalisation over each output.
    """

    def arithmetic(layer: Layer) -> float:
        return layer.flop / (tflops * 1e12)

    def moved(layer: Layer) -> float:
        return (layer.input_bytes + layer.weight_bytes + layer.output_bytes) / (gbs * 1e9)

    best = sum(max(arithmetic(layer), moved(layer)) for layer in layers)
    passes = sum(NORMALISATION_PASSES * layer.output_bytes for layer in layers) / (gbs * 1e9)
    return Bounds(best, sum(arithmetic(layer) + moved(layer) for layer in layers) + passes)


def _print_speed(runnable: Mapping[str, Mapping[str, Sequence[str]]], value: Mapping[str, Any]) -> None:
    from unet3d.devices import ceilings
    from unet3d.devices.platforms import KINDS
    from unet3d.network import flops
    from unet3d.network.plans import random_plans

    plans, threads = random_plans(), value["threads"] or host.usable_cores()
    shape = (4, *value["volume_shape"])
    tflop = flops.flops(plans, shape) / 1e12
    on_threads = f" on {threads} threads" if "CPU" in runnable else ""
    print(f"\nHow fast it should be: {tflop:.3g} TFLOP a volume of {list(shape)}, rates measured now{on_threads}")
    load = os.getloadavg()[0]
    if load > max(0.5, 0.25 * host.usable_cores()):
        print(f"  The machine is busy (load average {load:.1f}): the rates are too low, stop other work and check again.")
    print(f"  {'':<18}{'products':>14}{'copying':>12}   seconds a volume: at best, without overlap and fusion")
    for platform, engines in runnable.items():
        possible = {precision for precisions in engines.values() for precision in precisions}
        for precision in (precision for precision in PRECISIONS if precision in possible):
            rates = ceilings.measure(KINDS[platform], precision, threads)
            title = f"{platform} {precision}"
            if rates.matmul_tflops is None:
                print(f"  {title:<18}{'not measured':>14}{rates.copy_gbs:>7.1f} GB/s")
                continue
            seconds = bounds(flops.layers(plans, shape, BYTES[precision]), rates.matmul_tflops, rates.copy_gbs)
            print(
                f"  {title:<18}{rates.matmul_tflops:>7.3g} TFLOP/s{rates.copy_gbs:>7.1f} GB/s   "
                f"{seconds.best:>6.3g} s, {seconds.plain:.3g} s"
            )
    print(
        "  A run that is much slower than the second figure has a reason that can be found: other load, few threads, a\n"
        "  missing compiler, a slow precision. The sample weights' network is narrow, and faster than this."
    )


def missing(value: Mapping[str, Any]) -> list[str]:
    """What a run would lack, a line each with how to get it."""
    from unet3d.measure import run
    from unet3d.planning import mlperf

    lacking = []
    weights = value["weights"]
    if weights is None and not places.FETCHED_WEIGHTS.exists():
        lacking.append(
            "trained weights: runs use random ones; ./setup.sh where zenodo.org can be reached, or "
            "WEIGHTS=/path/fold_1.zip, or WEIGHTS=sample to try"
        )
    elif weights is not None and weights.casefold() not in resolve.NAMED_WEIGHTS and not Path(weights).expanduser().exists():
        lacking.append(f"weights: {weights!r} is not there; use a fold_1.zip, its unpacked folder, sample or random")
    if value["dataset_dir"] is None:
        lacking.append("a data set: Dice needs BraTS 2019 in DATASET_DIR; ./setup.sh --sample-data makes one to try")
    elif not value["dataset_dir"].is_dir():
        lacking.append(
            f"the data set: DATASET_DIR {str(value['dataset_dir'])!r} is not a folder; name the one that holds HGG and LGG"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "c++", "clang++")):
        lacking.append("a C++ compiler: our CPU kernels and JIT=compile need one; apt-get install g++")
    elif shutil.which("ninja") is None and importlib.util.find_spec("ninja") is None:
        lacking.append("ninja: our CPU kernels are built with it; pip install ninja")
    if importlib.util.find_spec("mlperf_loadgen") is None:
        lacking.append(f"LoadGen: SCENARIO=SingleStream and Offline need it; {mlperf.INSTALL}")
    lacking += _too_small(value, run.needed_memory)
    return lacking


def _too_small(value: Mapping[str, Any], needed_memory: Callable[..., int]) -> list[str]:
    lacking = []
    precision = value["precision"] or ("bf16" if host.bf16_instructions() else "fp32")
    asked = SimpleNamespace(
        batch_size=value["batch_size"], streams=value["streams"], precision=precision, volume_shape=value["volume_shape"]
    )
    needed, free = needed_memory(asked, 32), host.available_memory()
    if needed > free:
        lacking.append(
            f"memory: BATCH_SIZE={asked.batch_size} with STREAMS={asked.streams} in {precision} needs about "
            f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; lower them or stop other work"
        )
    folders = [("OUTPUT_DIR", value["output_dir"], RESULTS_BYTES)]
    if value["dataset_dir"] is not None:
        folders.append(
            (
                "PREPROCESSED_DIR",
                value["preprocessed_dir"] or value["dataset_dir"] / "build" / "preprocessed_data",
                CASES * PREPROCESSED_BYTES_A_CASE,
            )
        )
    for name, folder, size in folders:
        there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
        room = shutil.disk_usage(there).free
        if room < size:
            lacking.append(
                f"disk: {name} {folder} needs about {size / 1e9:.1f} GB, {room / 1e9:.1f} GB are free; free some "
                f"or name another folder with {name}"
            )
        if not os.access(there, os.W_OK):
            lacking.append(f"access: {name} {folder} cannot be written to; name another folder with {name}")
    return lacking
