#!/usr/bin/env python3
"""Times each 3x3x3 convolution of the network on a GPU, in the library's form and in each of ours.

    .venv/bin/python benchmarks/gpu_layers.py

A layer is no run of the benchmark, so this has a clock of its own: the median of rounds in which several calls follow
each other, so that launches are hidden. `unet3d.network.gpu_forms` takes its choice of forms from this table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import runs
from unet3d import caches
from unet3d.brats import weights
from unet3d.commands.arguments import OneLineParser
from unet3d.config import kinds
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import registry
from unet3d.devices.base import Device
from unet3d.workload import SHAPE

CALLS, ROUNDS = 3, 15


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 2 where there is no such GPU."""
    return runs.guarded(lambda: _time_layers(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="benchmarks/gpu_layers.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=registry.accelerators(), help="default: what is there")
    parser.add_argument("--shape", type=kinds.shape, default=SHAPE)
    parser.add_argument("--precisions", type=lambda text: tuple(text.split(",")), default=("fp16", "bf16"))
    return parser.parse_args(argv)


def _time_layers(options: argparse.Namespace) -> int:
    caches.share()
    import torch

    from unet3d.network import flops, gpu, gpu_forms, reference
    from unet3d.network.inference import InferenceUNet
    from unet3d.network.triton_ops.march import CHANNELS

    kind = options.device or next(
        (kind for kind in registry.accelerators() if registry.device_class(kind).is_available()), "cuda"
    )
    device = registry.open_device(kind)
    loaded = weights.random_weights()
    network = InferenceUNet.from_reference(reference.build(loaded.plans, loaded.state_dict))
    extent = list(options.shape)
    blocks = []
    for stage in network.encoder:
        for block in stage:
            blocks.append((block, tuple(extent)))
            extent = [-(-voxels // stride) for voxels, stride in zip(extent, block.conv.stride, strict=True)]
    for level, stage in enumerate(network.decoder):
        size = tuple(voxels >> (len(network.decoder) - 1 - level) for voxels in options.shape)
        blocks += [(block, size) for block in stage]
    print("| Channels | Stride | Extent | Form and ms | TFLOP/s |\n| --- | --- | --- | --- | --- |")
    for precision in options.precisions:
        dtype = PRECISIONS[precision].dtype()
        for block, size in dict.fromkeys(blocks):
            conv = block.conv
            forms = [("library", 0)]
            if gpu_forms.form_of(conv, dtype, lambda *_: "planes") == "planes" and conv.stride == (1, 1, 1):
                forms += [("planes", chunk) for chunk in (2, 3, 4, 8, 16, 32, size[0])]
                if {conv.in_channels, conv.out_channels} <= set(CHANNELS):
                    forms.append(("march", 0))
            elif gpu_forms.form_of(conv, dtype, gpu_forms.elsewhere) == "first":
                forms.append(("first", 0))
            best = gpu_forms.form_of(conv, dtype, gpu_forms.chooser(device.properties().architecture))
            if best not in dict(forms):
                forms.append((best, 0))
            x = torch.randn((1, *size, conv.in_channels), device=device.torch_device, dtype=dtype).permute(0, 4, 1, 2, 3)
            result = flops.convolution_extent(size, conv.kernel_size, conv.stride, (1, 1, 1))
            flop = flops.convolution_flop(conv.weight.shape, x.shape, (1, conv.out_channels, *result))
            for form, chunk in forms:
                made = gpu.Block(block, dtype, form).to(device.torch_device)
                gpu.CHUNK = chunk or gpu.CHUNK
                milliseconds = 1e3 * _median(partial(made, (x, None, None)), device)
                print(
                    f"| {conv.in_channels} to {conv.out_channels} {precision} | {conv.stride[0]} | {size} | "
                    f"{f'{form} {chunk}' if chunk else form}: {milliseconds:.3f} | {flop / milliseconds / 1e9:.0f} |",
                    flush=True,
                )
    return 0


def _median(call: Callable[[], object], device: Device) -> float:
    """Seconds of one call, the median of ROUNDS rounds of CALLS calls that follow each other."""
    import torch

    rounds = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            device.synchronize()
            start = perf_counter()
            for _ in range(CALLS):
                call()
            device.synchronize()
            rounds.append((perf_counter() - start) / CALLS)
    return statistics.median(rounds)


if __name__ == "__main__":
    sys.exit(main())
