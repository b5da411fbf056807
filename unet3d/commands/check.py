"""`./run_model.sh --check`: what this machine can run, how fast that should be, and what is missing.

The rates are measured here, never taken from data sheets; the seconds are what the network's FLOP and bytes take at
those rates.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet3d import columns, installed, places, progress
from unet3d.config import names, parse, table
from unet3d.config.precisions import PRECISIONS
from unet3d.config.values import Asked
from unet3d.devices import cpu_time, host, process
from unet3d.devices.ceilings import HARDWARE
from unet3d.errors import UserErrors, shown
from unet3d.measure import rates
from unet3d.network.cpu_ops import build, peak
from unet3d.planning import memory, mlperf
from unet3d.planning.refusals import weights_are_missing
from unet3d.results import advice
from unet3d.results.console import Console

if TYPE_CHECKING:
    from unet3d.network.flops import Executed, Layer

# After a convolution the normalisation reads its output for the statistics, then reads and writes it once more.
NORMALISATION_PASSES = 3
SETTINGS = (
    "platform",
    "precision",
    "engine",
    "onnx_provider",
    "batch_size",
    "streams",
    "threads",
    "volume_shape",
    "weights",
    "dataset_dir",
    "preprocessed_dir",
    "output_dir",
)
NOT_MEASURED = "not measured"
HEAD, OURS = ("", "hardware", "library", "copying", "at best", "without overlap"), "  torch"
BASE_FEATURES = 32  # of MLPerf's network
RESULTS_BYTES, PREPROCESSED_BYTES_A_CASE, CASES = 100e6, 55e6, 67


@dataclass(frozen=True)
class Bounds:
    """Seconds of one volume by direct convolutions: `best` with every layer at its own ceiling, `plain` without overlap
    and fusion."""

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
    asked = Asked.of(given)
    if reason := installed.why_torch_cannot():
        print(f"Nothing can run: {reason}")
        return 2
    process.import_torch()
    runnable, lacking = what_runs(asked)
    for warning in advice.misspelt(os.environ):
        Console().warning(warning)
    print("What this machine can run")
    for platform, engines in runnable.items():
        print(f"  {platform}: {_described(platform)}")
        for engine, precisions in engines.items():
            print(f"    {engine + ':':<13}{', '.join(precisions)}")
    if not runnable:
        print("  nothing with these settings")
    else:
        _print_speed(runnable, asked)
    lacking += missing(asked)
    print("\nWhat is missing" if lacking else "\nNothing is missing")
    for line in lacking:
        print(f"  {line}")
    return 0 if runnable else 2


def what_runs(asked: Asked) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Precisions by platform and engine, within the settings that are given; and why the others can't, a line each."""
    from unet3d.devices.registry import KINDS, PLATFORMS, device_class, open_device
    from unet3d.engines import registry
    from unet3d.engines.base import Request

    runnable: dict[str, dict[str, list[str]]] = {}
    lacking: list[str] = []
    for kind in dict.fromkeys(PLATFORMS[platform] for platform in names.PLATFORMS):
        wanted = asked.platform
        if wanted is not None and PLATFORMS[wanted] != kind:
            continue
        if not device_class(kind).is_available():
            reason = device_class(kind).why_unavailable()
            # The class answers for a platform that was asked for; here nobody did.
            lacking.append(f"{' or '.join(KINDS[kind].platforms)}: {reason.partition(', but ')[2] or reason}")
            continue
        device = open_device(kind)
        platform = device.platform()
        engines: dict[str, list[str]] = {}
        for engine in registry.names():
            reasons: list[str] = []
            provider = asked.onnx_provider if platform in registry.engine_class(engine).onnx_platforms else None
            for precision in (asked.precision,) if asked.precision else PRECISIONS:
                # Calibration data is a matter of the run, not of the machine.
                request = Request(engine, device, precision, onnx_provider=provider, calibration=lambda: iter(()))
                refused = registry.engine_class(engine).refuse(request)
                if refused:
                    reasons += refused
                else:
                    engines.setdefault(engine, []).append(precision)
            if engine not in engines:
                # What an installation mends; the rest is as it is.
                lacking += list(dict.fromkeys(text for text in reasons if "install" in text))
        if engines:
            runnable[platform] = engines
    return runnable, list(dict.fromkeys(lacking))


def _described(platform: str) -> str:
    from unet3d.devices.registry import PLATFORMS, open_device

    properties = open_device(PLATFORMS[platform]).properties()
    instructions = host.bf16_instructions() or "no bf16 instructions, so bf16 is slow"
    units = f"{properties.compute_units} {properties.compute_unit_name}"
    return f"{properties.name}, {units}, {properties.memory_bytes / 2**30:.0f} GiB" + (
        f", {instructions}" if platform == "CPU" else f", driver {properties.driver or 'unknown'}"
    )


def bounds(layers: Sequence[Layer], tflops: float, gbs: float) -> Bounds:
    """What the layers (of `unet3d.network.flops.layers`) take at these rates, in 1e12 FLOP and 1e9 bytes a second.

    best: each layer takes the longer of its arithmetic and of reading its input and weights and writing its output
    (the roofline model of Williams, Waterman and Patterson, 2009). plain: both one after the other, and separate
    passes of the normalisation over each output.
    """
    return _bounds(layers, [layer.flop / (tflops * 1e12) for layer in layers], gbs)


def _bounds(layers: Sequence[Layer], arithmetic: Sequence[float], gbs: float) -> Bounds:
    """arithmetic: seconds of each layer."""
    moved = [(layer.input_bytes + layer.weight_bytes + layer.output_bytes) / (gbs * 1e9) for layer in layers]
    passes = sum(NORMALISATION_PASSES * layer.output_bytes for layer in layers) / (gbs * 1e9)
    return Bounds(sum(map(max, arithmetic, moved)), sum(arithmetic) + sum(moved) + passes)


def _print_speed(runnable: Mapping[str, Mapping[str, Sequence[str]]], asked: Asked) -> None:
    from unet3d.network import flops
    from unet3d.network.plans import random_plans

    plans, threads = random_plans(), asked.threads or host.usable_cores()
    shape = (4, *asked.volume_shape)
    tflop = flops.flops(plans, shape) / 1e12
    on_threads = f" on {threads} threads" if "CPU" in runnable else ""
    print(f"\nHow fast it should be: {tflop:.3g} TFLOP per volume of {list(shape)}, rates measured now{on_threads}")
    before = cpu_time.read()
    rows: list[list[str]] = []
    measured: list[str] = []
    for platform, engines in runnable.items():
        possible = {precision for precisions in engines.values() for precision in precisions}
        for precision in (precision for precision in PRECISIONS if precision in possible):
            of_torch = platform == "CPU" and precision in engines.get("torch", ())
            of_platform, line = _speed(platform, precision, _ours(plans, shape, precision) if of_torch else (), shape, threads)
            rows += of_platform
            measured.append(line)
    width = progress.columns(sys.stdout)
    for line in columns.table(HEAD, rows, width and width - 2):
        print(f"  {line}")
    explained = (
        "Seconds are of a volume's direct convolutions at the hardware ceiling, where there is none at the library's, and in "
        "the row below of what ENGINE=torch executes, from which Winograd's method saves products. A run that is much slower "
        "than without overlap and fusion has a reason that can be found: other load, few threads, a missing compiler, a slow "
        "precision. The sample weights' network is narrow, and faster than this."
    )
    seen = cpu_time.between(before, cpu_time.read())
    if seen and any(advice.disturbs(seen, platform) for platform in runnable):
        # Counters, not the load average: that counts this process's own compiling, minutes after its end.
        text = f"  Meanwhile other work had {seen.others_share:.0%} of the {seen.cpus} CPUs: stop it and check again."
        print("\n".join(columns.paragraph(text, width)))
    for text in (*measured, explained):
        print("\n".join(columns.paragraph(f"  {text}", width, indent="    " if text in measured else "  ")))


def _speed(
    platform: str, precision: str, ours: Sequence[Executed], shape: Sequence[int], threads: int
) -> tuple[list[list[str]], str]:
    """Rows of a platform's precision, and what its ceilings were measured with. ours: what ENGINE=torch executes."""
    from unet3d.devices.registry import PLATFORMS
    from unet3d.network import flops
    from unet3d.network.plans import random_plans

    title = f"{platform} {precision}"
    with progress.phase(f"measuring {title}"):
        top = rates.measure(PLATFORMS[platform], precision, threads, (layer.products for layer in ours))
    layers, ceiling = flops.layers(random_plans(), tuple(shape), PRECISIONS[precision].bytes), top.of(precision)
    hardware = ceiling if top.whose(precision) == HARDWARE else None
    direct = bounds(layers, ceiling.tflops, top.copy_gbs) if ceiling else None
    row = [
        title,
        f"{hardware.tflops:.3g} TFLOP/s" if hardware else NOT_MEASURED,
        f"{top.matmul_tflops:.3g} TFLOP/s" if top.matmul_tflops else NOT_MEASURED,
        f"{top.copy_gbs:.1f} GB/s",
        *([f"{direct.best:.3g} s", f"{direct.plain:.3g} s"] if direct else ["", ""]),
    ]
    why_not = peak.why_not(precision) if platform == "CPU" else "there are loops of products for CPUs alone"
    how = hardware.how if hardware else f"{NOT_MEASURED} ({why_not})"
    line = f"{title}: hardware {how}; library {top.matmul_how}"
    seconds = [second for layer in ours if (second := top.seconds({layer.products: layer.flop / 1e12})) is not None]
    if not ours or len(seconds) < len(ours):
        return [row], line
    executed = ", ".join(f"{flop / 1e12:.2g} TFLOP in {products}" for products, flop in flops.by_type(ours).items())
    best = _bounds(layers, seconds, top.copy_gbs).best
    return [row, [OURS, "", "", "", f"{best:.3g} s", ""]], f"{line}; ENGINE=torch executes {executed}"


def _ours(plans: dict[str, Any], shape: Sequence[int], precision: str) -> Sequence[Executed]:
    """What ENGINE=torch multiplies on this CPU; nothing where it has no form of ours, or int8's is known after calibration."""
    if precision not in build.STORED or not build.available():
        return ()
    from unet3d.network.cpu import planned

    return planned(plans, PRECISIONS[precision].dtype(), (1, *shape))


def missing(asked: Asked) -> list[str]:
    """What a run would lack, a line each with how to get it."""
    lacking = []
    weights = asked.weights
    if weights is None and not places.FETCHED_WEIGHTS.exists():
        lacking.append(
            "trained weights: runs use random ones; ./setup.sh where zenodo.org can be reached, or "
            "WEIGHTS=/path/fold_1.zip, or WEIGHTS=sample to try"
        )
    elif weights_are_missing(weights):
        lacking.append(f"weights: '{shown(weights)}' is not there; use a fold_1.zip, its unpacked folder, sample or random")
    if asked.dataset_dir is None:
        lacking.append("a data set: Dice needs BraTS 2019 in DATASET_DIR; ./setup.sh --sample-data makes one to try")
    elif not asked.dataset_dir.is_dir():
        lacking.append(
            f"the data set: DATASET_DIR '{shown(asked.dataset_dir)}' is not a folder; name the one that holds HGG and LGG"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "c++", "clang++")):
        lacking.append("a C++ compiler: our CPU kernels and JIT=compile need one; apt-get install g++")
    elif build.ninja() is None:
        lacking.append("ninja: our CPU kernels are built with it; pip install ninja")
    if importlib.util.find_spec("mlperf_loadgen") is None:
        lacking.append(f"LoadGen: SCENARIO=SingleStream and Offline need it; {mlperf.INSTALL}")
    lacking += _too_small(asked)
    return lacking


def _too_small(asked: Asked) -> list[str]:
    from unet3d.brats.preprocessing import choose_store

    lacking = []
    precision = asked.precision or ("bf16" if host.bf16_instructions() else "fp32")
    batch_size, streams = asked.batch_size, asked.streams
    needed = memory.needed(precision, asked.volume_shape, batch_size, streams, BASE_FEATURES)
    free = host.available_memory()
    if needed > free:
        lacking.append(
            f"memory: BATCH_SIZE={batch_size} with STREAMS={streams} in {precision} needs about "
            f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; lower them or stop other work"
        )
    folders: list[tuple[str, Path, float]] = [("OUTPUT_DIR", asked.output_dir, RESULTS_BYTES)]
    if asked.dataset_dir is not None:
        folders.append(
            (
                "PREPROCESSED_DIR",
                asked.preprocessed_dir or choose_store(asked.dataset_dir, asked.output_dir, asked.fold)[0],
                CASES * PREPROCESSED_BYTES_A_CASE,
            )
        )
    for name, folder, size in folders:
        there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
        room = shutil.disk_usage(there).free
        if room < size:
            lacking.append(
                f"disk: {name} {shown(folder)} needs about {size / 1e9:.1f} GB, {room / 1e9:.1f} GB are free; free some "
                f"or name another folder with {name}"
            )
        if not os.access(there, os.W_OK):
            lacking.append(f"access: {name} {shown(folder)} cannot be written to; name another folder with {name}")
    return lacking
