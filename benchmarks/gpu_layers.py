#!/usr/bin/env python3
"""Times each 3x3x3 convolution of the network on a GPU, in every form that can compute it, with what that costs around it.

    .venv/bin/python benchmarks/gpu_layers.py

Clock, forms and volumes are those of TUNE=yes (`unet3d.network.gpu_tuning`). `MEASURED` of `unet3d.network.gpu_forms` takes its
rows from this table: an architecture with its own rows needs the whole of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import runs
from unet3d import caches
from unet3d.brats import weights
from unet3d.commands.arguments import OneLineParser
from unet3d.config import kinds
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import registry
from unet3d.workload import SHAPE

if TYPE_CHECKING:
    import torch

    from unet3d.devices.base import Device
    from unet3d.network.gpu_forms import Geometry
    from unet3d.network.gpu_tuning import Clock

HALF = tuple(name for name, precision in PRECISIONS.items() if precision.half)
CHUNKS = (2, 4, 8, 16, 32)  # planes at a time that are tried beside the network's own


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 2 where there is no such GPU."""
    return runs.guarded(lambda: _time_layers(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="benchmarks/gpu_layers.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", choices=registry.accelerators(), help="default: what is there")
    parser.add_argument("--shape", type=kinds.shape, default=SHAPE)
    parser.add_argument("--precisions", type=_precisions, default=HALF, help=f"any of {', '.join(HALF)}")
    return parser.parse_args(argv)


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in HALF:
            raise argparse.ArgumentTypeError(f"{name!r} is not allowed; use {' or '.join(HALF)}, separated by commas")
    return names


def _time_layers(options: argparse.Namespace) -> int:
    caches.share()
    from unet3d.network import gpu_forms, gpu_tuning, reference
    from unet3d.network.cuda_ops import kernels
    from unet3d.network.inference import InferenceUNet

    kind = options.device or next(
        (kind for kind in registry.accelerators() if registry.device_class(kind).is_available()), "cuda"
    )
    device = registry.open_device(kind)
    architecture = device.properties().architecture
    cuda = kernels.why_not(architecture) is None
    chosen = gpu_forms.by_architecture(architecture, cuda)
    loaded = weights.random_weights()
    network = InferenceUNet.from_reference(reference.build(loaded.plans, loaded.state_dict))
    geometries = gpu_forms.geometries(network, (1, 4, *options.shape))
    print(f"Chosen (*) without TUNE: {chosen.source}\n")
    print("| Channels and extent | Form and ms | TFLOP/s |\n| --- | --- | --- |")
    clock = gpu_tuning.Clock(device)
    for precision in options.precisions:
        dtype = PRECISIONS[precision].dtype()
        for geometry in dict.fromkeys(geometries.values()):
            timed = gpu_tuning.time_forms(geometry, dtype, device, clock, cuda)
            rows = timed.ms | (_chunks(geometry, dtype, device, clock) if "planes" in timed.ms else {})
            for form, milliseconds in rows.items():
                mark = "*" if form == chosen.choose(geometry) else ""
                rate = _flop(geometry) / milliseconds / 1e9
                print(f"| {geometry} {precision} | {form}{mark}: {milliseconds:.3f} | {rate:.0f} |", flush=True)
            for form, reason in timed.left_out.items():
                print(f"| {geometry} {precision} | {form}: {reason} | |", flush=True)
    return 0


def _chunks(geometry: Geometry, dtype: torch.dtype, device: Device, clock: Clock) -> dict[str, float]:
    """Milliseconds by planes with other chunks than the network's own."""
    from unet3d.network import gpu, gpu_tuning

    call = gpu_tuning.Trial(geometry, dtype, device.torch_device).call("planes")
    own, ms = gpu.CHUNK, {}
    for chunk in CHUNKS:
        gpu.CHUNK = chunk
        gpu_tuning.output_of(call, device)
        ms[f"planes, chunks of {chunk}"] = 1e3 * clock.seconds(call)
    gpu.CHUNK = own
    return ms


def _flop(geometry: Geometry) -> int:
    """Of the convolution, and of the transposed one in front of it: a kernel of 2x2x2 for each eighth of the voxels."""
    from unet3d.network import flops

    result = flops.convolution_extent(geometry.extent, geometry.kernel, geometry.stride, geometry.padding)
    weight, before = (geometry.outputs, geometry.inputs, *geometry.kernel), (geometry.batch, geometry.inputs, *geometry.extent)
    own = flops.convolution_flop(weight, before, (geometry.batch, geometry.outputs, *result))
    return own + 2 * geometry.batch * geometry.upsampled * geometry.sources[0] * prod(geometry.extent)


if __name__ == "__main__":
    sys.exit(main())
