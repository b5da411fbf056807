"""The network in int8 by NNCF's post-training quantisation, as OpenVINO IR files kept by content.

`network=reference` is what NNCF makes of nnU-Net's converted graph with its default presets. `network=fast` starts from
our graph and the ranges that NNCF finds, and moves the quantisers to where they cost least in time and accuracy:

- NNCF quantises what a convolution gives before the normalisation reads it, with one range for all channels, although
  the normalisation is about to give each channel its own: a channel of small variance is left with a few levels. These
  quantisers, those of the decoder's sums and those inside the normalisation are taken out. Convolutions hand on the
  plugin's floating-point type, and the normalisation quantises once, in the pass that writes.
- A LeakyReLU of slope 0.01 has next to nothing below zero, but a symmetric range spends half of its 256 levels there.
  The range starts at zero instead: the step is half as wide, which gains more than the negative values lose (they are
  smaller than a step), and unsigned levels without zero point are what AVX512-VNNI and AMX multiply at full speed.
- OpenVINO's CPU plugin lets an int8 transposed convolution hand on float32, four bytes a voxel and then a reorder to
  bf16, unless an operation is fused into it. A clamp to bounds that nothing reaches is fused, changes no value, and the
  result is written in bf16 at once.
- On a CPU without AVX-512 the plugin runs larger transposed convolutions in float32. There the upsampling stays small
  (2x2x2) instead of being merged with the convolution after it, and its result is quantised for that one.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from unet3d import progress
from unet3d.devices import host
from unet3d.engines import export_cache
from unet3d.engines.openvino import ir

if TYPE_CHECKING:
    import openvino
    import torch

    from unet3d.engines.base import Request

# Beyond every activation, and finite in bf16.
UNREACHED = 1e30
CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")


def quantised(reference: torch.nn.Module, request: Request) -> tuple[Path, dict[str, float]]:
    """Path of the int8 IR's .xml, and the seconds spent by name.

    Raises:
        UserError: when the volumes to calibrate with cannot be read.
    """
    import sys

    start = perf_counter()
    assert request.calibration is not None  # refused otherwise
    with progress.phase("reading volumes to calibrate with"):
        volumes = list(request.calibration())
    merge = not request.device.is_host or "avx512bw" in host.cpu_flags()
    seconds = {"calibration volumes": perf_counter() - start}
    ingredients = [
        "int8",
        *ir.ingredients(reference, request.network, merge),
        *export_cache.versions(("nncf",)),
        export_cache.sources_hash(sys.modules[__name__]),
        *(export_cache.volume_hash(volume) for volume in volumes),
    ]

    def make(folder: Path) -> None:
        import openvino

        begin = perf_counter()
        with progress.phase("exporting the network to OpenVINO"):
            model = ir.make_model(reference, request.network, merge)
        seconds["export"] = perf_counter() - begin
        begin = perf_counter()
        with progress.phase("quantising to int8"):
            model = _quantise(model, volumes)
        if request.network == "fast":
            place_quantisers(model)
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        seconds["quantise"] = perf_counter() - begin

    start = perf_counter()
    folder, was_there = export_cache.get_or_make(request.cache_dir / "openvino-int8", ingredients, make)
    if was_there:
        seconds["read export"] = perf_counter() - start
    return folder / "model.xml", seconds


def _quantise(model: openvino.Model, volumes: list[np.ndarray]) -> openvino.Model:
    # NNCF greets and draws progress bars on standard output, which is the benchmark's own.
    with contextlib.redirect_stdout(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.quantize(model, nncf.Dataset([volume[None] for volume in volumes]), subset_size=len(volumes))


def place_quantisers(model: openvino.Model) -> None:
    """Move the quantisers of NNCF's default placement in our graph, in place; see the module's text."""
    from openvino import opset13

    for quantiser in [op for op in model.get_ops() if op.get_type_name() == "FakeQuantize"]:
        source = quantiser.input_value(0)
        readers = quantiser.output(0).get_target_inputs()
        kind = source.get_node().get_type_name()
        if kind == "PRelu":
            high = quantiser.input_value(2).get_node().data
            low = opset13.constant(np.zeros_like(high))
            high = opset13.constant(high)
            replacement = opset13.fake_quantize(source, low, high, low, high, 256).output(0)
        elif any(reader.get_node().get_type_name() in CONVOLUTIONS for reader in readers):
            continue
        elif kind == "ConvolutionBackpropData":
            replacement = opset13.clamp(source, -UNREACHED, UNREACHED).output(0)
        else:
            replacement = source
        for reader in readers:
            reader.replace_source_output(replacement)
    model.validate_nodes_and_infer_types()
