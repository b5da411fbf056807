#!/usr/bin/env python3
"""The CPU's fused layers paired with oneDNN's convolutions, layer by layer, and the whole network.

    .venv/bin/python benchmarks/cpu_layers.py --precisions bf16
    .venv/bin/python benchmarks/cpu_layers.py --precisions bf16,int8,fp32 --no-layers --rounds 5

Calls alternate (ours, theirs, ours, ...), so that a drift of the machine meets both; the table has the fastest and the
median call. `ours` also normalises, activates and makes the moments for the next layer, which oneDNN does not. Shares are of
the hardware ceiling (see `--check`) and count the products that a layer's form executes. On a busy machine
`--clock cpu --threads 1` counts the processor's time, which others do not take. int8 needs AMX; elsewhere its tiles are
emulated, which is for small shapes.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, prod
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks import runs
from unet3d.brats import weights
from unet3d.commands.arguments import OneLineParser
from unet3d.config import kinds
from unet3d.config.precisions import PRECISIONS
from unet3d.devices.ceilings import Rate
from unet3d.errors import UserError
from unet3d.network import cpu, quantization, reference
from unet3d.network.cpu_ops import build, forms, peak
from unet3d.network.inference import InferenceUNet
from unet3d.workload import SHAPE

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 0, or 2 for bad input or where the operators cannot be had."""
    return runs.guarded(lambda: _benchmark(_arguments(argv)))


def _benchmark(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(arguments.threads)
    loaded = weights.random_weights()
    network = reference.build(loaded.plans, loaded.state_dict)
    if not build.available():
        raise UserError(build.status()[1])
    tiles = "with AMX" if build.amx() else "AMX emulated" if "int8" in arguments.precisions else "without AMX"
    print(f"{build.vectors()}, {tiles}, {arguments.threads} threads, {arguments.clock} time, {arguments.rounds} rounds")
    with torch.inference_mode():
        ours = {precision: _ours(network, precision) for precision in arguments.precisions}
        if arguments.layers:
            for precision, form in ours.items():
                _layers(form, precision, arguments)
        if arguments.network:
            _network(network, ours, arguments)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="benchmarks/cpu_layers.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--precisions", type=_precisions, default=("bf16",), help="of bf16, fp32, int8, separated by commas")
    parser.add_argument("--threads", type=runs.count, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=runs.count, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--shape", type=kinds.shape, default=SHAPE, help="extents of the volume, such as 224,224,160")
    parser.add_argument("--no-layers", dest="layers", action="store_false", help="the whole network only")
    parser.add_argument("--no-network", dest="network", action="store_false", help="the layers only")
    return parser.parse_args(argv)


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in (*build.STORED, "int8"):
            raise argparse.ArgumentTypeError(f"{name!r} is not allowed; use bf16, fp32 or int8, separated by commas")
    return names


def _ours(network: nn.Module, precision: str) -> cpu.CpuUNet:
    if precision != "int8":
        return cpu.CpuUNet.from_reference(network, PRECISIONS[precision].dtype())
    # How fast it is does not depend on the ranges.
    ranges = quantization.calibrate(InferenceUNet.from_reference(network), [torch.randn(4, 32, 32, 64)])
    return cpu.CpuUNet.from_reference(network, torch.bfloat16, ranges, tiles=True)


def random(*shape: int) -> torch.Tensor:
    """Normal numbers, repeated: a volume of them all different would take longer to make than to be convolved."""
    some = torch.randn(1 << 18)
    return some.repeat(ceil(prod(shape) / some.numel()))[: prod(shape)].view(shape)


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


def _layers(ours: cpu.CpuUNet, precision: str, arguments: argparse.Namespace) -> None:
    print(f"\n{precision}:")
    print("| layer | output | form | ours ms (median) | oneDNN ms (median) | ratio | TFLOP/s, nominal | of the ceiling |")
    print("|---|---|---|---|---|---|---|---|")
    total = {"ours": 0.0, "oneDNN": 0.0}
    ceilings: dict[str, Rate | None] = {}
    executed = {layer.name: layer for layer in ours.executed((1, ours.channels, *arguments.shape))}
    for name, module, shapes in _modules(ours, arguments.shape):
        sources = [random(*shape).to(ours.dtype).contiguous(memory_format=torch.channels_last_3d) for shape in shapes]
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
        multiplied = executed[name].products
        if multiplied not in ceilings:
            ceilings[multiplied] = peak.best(multiplied, arguments.threads)
        theirs = _onednn(module, inputs, outputs, x)
        seconds = paired({"ours": partial(module, *raws), "oneDNN": theirs}, arguments)
        best = {key: min(values) for key, values in seconds.items()}
        for key, value in best.items():
            total[key] += value
        nominal = 2 * inputs * outputs * prod(extents) * (1 if isinstance(module, cpu.Upsampling) else 27)
        ceiling = ceilings[multiplied]
        share = f"{executed[name].flop / best['ours'] / 1e12 / ceiling.tflops:.0%}" if ceiling else "n/a"
        print(
            f"| {name} {inputs}->{outputs} | {'x'.join(map(str, extents))} | {module.form} | "
            f"{best['ours'] * 1e3:.1f} ({median(seconds['ours']) * 1e3:.1f}) | "
            f"{best['oneDNN'] * 1e3:.1f} ({median(seconds['oneDNN']) * 1e3:.1f}) | {best['oneDNN'] / best['ours']:.2f} | "
            f"{nominal / best['ours'] / 1e12:.3g} | {share} |",
            flush=True,
        )
    rates = ", ".join(f"{rate.tflops:.2f} TFLOP/s by {rate.how}" for rate in ceilings.values() if rate)
    print(f"sum: ours {total['ours']:.3f} s, oneDNN {total['oneDNN']:.3f} s; hardware ceiling: {rates or 'not measured'}")
    for multiplied in (name for name, rate in ceilings.items() if rate is None):
        print(f"no ceiling of {multiplied} products: {peak.why_not(multiplied)}")


def _modules(
    network: cpu.CpuUNet, shape: tuple[int, ...]
) -> Iterator[tuple[str, cpu.Block | cpu.Upsampling, list[tuple[int, ...]]]]:
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


def _onednn(module: cpu.Block | cpu.Upsampling, inputs: int, outputs: int, x: torch.Tensor) -> Callable[[], object]:
    """The library's convolution of the same products: in int8 the quantised one, without quantising its input."""
    if isinstance(module, cpu.Block) and forms.products(module.form) == "int8":
        return _onednn_int8(module.stride, inputs, outputs, x)
    if isinstance(module, cpu.Upsampling):
        layer: nn.Module = nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)
    else:
        layer = nn.Conv3d(inputs, outputs, 3, module.stride, 1, bias=False)
    layer = layer.to(x.dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # PyTorch's types lack it
    return partial(layer, x)


def _onednn_int8(stride: int, inputs: int, outputs: int, x: torch.Tensor) -> Callable[[], object]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        with warnings.catch_warnings():
            # Tensors that carry their scale are deprecated; PyTorch has no other way to its int8 convolution.
            warnings.simplefilter("ignore")
            weight = torch.quantize_per_tensor(torch.randn(outputs, inputs, 3, 3, 3), 0.02, 0, torch.qint8)
            quantised = torch.quantize_per_tensor(x.float(), 0.02, 128, torch.quint8)
        packed = torch.ops.quantized.conv3d_prepack(weight, None, [stride] * 3, [1] * 3, [1] * 3, 1)
    finally:
        torch.backends.quantized.engine = before
    quantised = quantised.contiguous(memory_format=torch.channels_last_3d)
    return lambda: torch.ops.quantized.conv3d(quantised, packed, 1.0, 128)


def _network(network: nn.Module, ours: dict[str, cpu.CpuUNet], arguments: argparse.Namespace) -> None:
    staged = random(1, 4, *arguments.shape)
    calls: dict[str, Callable[[], object]] = {}
    for precision, form in ours.items():
        x = staged.to(form.dtype).contiguous(memory_format=torch.channels_last_3d)
        calls[f"fused layers, {precision}"] = partial(form, x)
    # PyTorch's own operators in the first precision that they have.
    stock = next((precision for precision in ours if precision != "int8"), None)
    if stock is not None:
        dtype = PRECISIONS[stock].dtype()
        x = staged.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        calls[f"PyTorch's operators, {stock}"] = partial(InferenceUNet.from_reference(network).to(dtype), x)
    seconds = paired(calls, arguments)
    first, *_ = seconds
    print()
    for name, values in seconds.items():
        ratio = median(theirs / ours for theirs, ours in zip(values, seconds[first], strict=True))
        print(f"{name}: fastest {min(values):.3f} s, median {median(values):.3f} s, {ratio:.2f} times {first}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
