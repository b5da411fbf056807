#!/usr/bin/env python3
"""The CPU's fused layers paired with oneDNN's convolutions, layer by layer, and the whole network with PyTorch's operators.

    .venv/bin/python benchmarks/cpu_layers.py --precision bf16
    .venv/bin/python benchmarks/cpu_layers.py --precision fp32 --network --rounds 5

Calls alternate (ours, theirs, ours, ...), so that a drift of the machine meets both; the table has the fastest and the
median call. `ours` also normalises, activates and makes the moments for the next layer, which oneDNN does not. On a busy
machine `--clock cpu --threads 1` counts the processor's time, which others do not take.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from math import ceil, prod
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks.runs import guarded
from unet3d.brats import weights
from unet3d.commands.arguments import OneLineParser
from unet3d.config.precisions import PRECISIONS
from unet3d.errors import UserError
from unet3d.network import cpu, reference
from unet3d.network.cpu_ops import build
from unet3d.network.inference import InferenceUNet
from unet3d.workload import SHAPE

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    loaded = weights.random_weights()
    network = reference.build(loaded.plans, loaded.state_dict)
    if not build.available():
        raise UserError(build.status()[1])
    with torch.inference_mode():
        print(f"{build.vectors()}, {arguments.threads} threads, {arguments.precision}, {arguments.clock} time")
        (_network if arguments.network else _layers)(network, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = OneLineParser(prog="benchmarks/cpu_layers.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--precision", choices=build.STORED, default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, metavar=("D", "H", "W"))
    parser.add_argument("--network", action="store_true", help="the whole network instead of its layers")
    return parser.parse_args()


def paired(calls: dict[str, Callable[[], object]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each call in alternating rounds, after one that is not counted."""
    clock = CLOCKS[arguments.clock]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(arguments.rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def peak(dtype: torch.dtype, arguments: argparse.Namespace) -> float:
    """FLOP/s of the library's matrix product: what a form's own products can reach."""
    a = torch.randn(1536, 1536).to(dtype)
    clock, best = CLOCKS[arguments.clock], float("inf")
    for _ in range(40):
        start = clock()
        a @ a
        best = min(best, clock() - start)
    return 2 * 1536**3 / best


def products(module: cpu.Block | cpu.Upsampling, inputs: int, outputs: int, extents: tuple[int, ...]) -> float:
    """FLOP that the form of a layer really multiplies, tiles that reach over the edge counted whole."""
    if isinstance(module, cpu.Upsampling):
        return 2 * inputs * outputs * prod(extents)
    if module.form.startswith("direct"):
        return 2 * 27 * inputs * outputs * prod(extents)
    tile = [int(n) for n in module.form.split(",")[0].split()[1].split("x")]
    return 2 * inputs * outputs * prod((m + 2) * ceil(n / m) for m, n in zip(tile, extents, strict=True))


def _layers(network: nn.Module, arguments: argparse.Namespace) -> None:
    dtype = PRECISIONS[arguments.precision].dtype()
    peaks = {"fp32": peak(torch.float32, arguments), "bf16": peak(torch.bfloat16, arguments) if dtype == torch.bfloat16 else 0}
    ours = cpu.CpuUNet.from_reference(network, dtype)
    print(
        "| layer | output | form | ours ms (median) | oneDNN ms (median) | ratio | effective TFLOP/s | of its products' bound |"
    )
    print("|---|---|---|---|---|---|---|---|")
    total = {"ours": 0.0, "oneDNN": 0.0}
    for name, module, shapes in _modules(ours, arguments.shape, dtype):
        sources = [torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last_3d) for shape in shapes]
        # What was upsampled has no normalisation, nor has the network's input.
        plain = len(sources) == 2 or sources[0].shape[1] < 32
        raws = [
            (x, None, None) if plain and i == 0 else (x, torch.ones(1, x.shape[1]), torch.zeros(1, x.shape[1]))
            for i, x in enumerate(sources)
        ]
        x = torch.cat(sources, 1).contiguous(memory_format=torch.channels_last_3d)
        output = module(*raws)[0]
        inputs, outputs, extents = x.shape[1], output.shape[1], tuple(output.shape[2:])
        del output
        theirs = _onednn(module, inputs, outputs, dtype)
        seconds = paired({"ours": partial(module, *raws), "oneDNN": partial(theirs, x)}, arguments)
        best = {key: min(values) for key, values in seconds.items()}
        for key, value in best.items():
            total[key] += value
        effective = 2 * inputs * outputs * prod(extents) * (1 if isinstance(module, cpu.Upsampling) else 27)
        bound = products(module, inputs, outputs, extents) / peaks["bf16" if "bf16 products" in module.form else "fp32"]
        print(
            f"| {name} {inputs}->{outputs} | {'x'.join(map(str, extents))} | {module.form} | "
            f"{best['ours'] * 1e3:.1f} ({median(seconds['ours']) * 1e3:.1f}) | "
            f"{best['oneDNN'] * 1e3:.1f} ({median(seconds['oneDNN']) * 1e3:.1f}) | {best['oneDNN'] / best['ours']:.2f} | "
            f"{effective / best['ours'] / 1e12:.2f} | {bound / best['ours']:.0%} |",
            flush=True,
        )
    print(
        f"sum: ours {total['ours']:.3f} s, oneDNN {total['oneDNN']:.3f} s; "
        f"matrix products reach {peaks['fp32'] / 1e9:.0f} GFLOP/s in fp32, {peaks['bf16'] / 1e9:.0f} in bf16"
    )


def _modules(network: cpu.CpuUNet, shape: tuple[int, ...], dtype: torch.dtype):
    """Name, module and shapes of the sources of each layer, taken from a small volume and scaled up."""
    small, seen = [32] * 3, []
    hooks = [
        module.register_forward_pre_hook(lambda m, args: seen.append((m, [raw[0].shape for raw in args])))
        for module in network.modules()
        if isinstance(module, cpu.Block | cpu.Upsampling)
    ]
    network(torch.zeros(1, network.channels, *small))
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in network.named_modules()}
    for module, sources in seen:
        yield (
            names[module],
            module,
            [
                (1, source[1], *(n * size // least for n, size, least in zip(source[2:], shape, small, strict=True)))
                for source in sources
            ],
        )


def _onednn(module: cpu.Block | cpu.Upsampling, inputs: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    if isinstance(module, cpu.Upsampling):
        layer: nn.Module = nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)
    else:
        layer = nn.Conv3d(inputs, outputs, 3, module.stride, 1, bias=False)
    return layer.to(dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # PyTorch's types lack it


def _network(network: nn.Module, arguments: argparse.Namespace) -> None:
    dtype = PRECISIONS[arguments.precision].dtype()
    staged = torch.randn(1, 4, *arguments.shape).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    ours = cpu.CpuUNet.from_reference(network, dtype)
    stock = InferenceUNet.from_reference(network).to(dtype)
    calls: dict[str, Callable[[], object]] = {
        "fused layers": lambda: ours(staged),
        "PyTorch's operators": lambda: stock(staged),
    }
    seconds = paired(calls, arguments)
    for name, values in seconds.items():
        ratio = median(theirs / ours for theirs, ours in zip(values, seconds["fused layers"], strict=True))
        print(f"{name}: fastest {min(values):.3f} s, median {median(values):.3f} s, {ratio:.2f} times ours", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
