"""Ranges of activations for int8, found once for the same network and volumes and kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d import json_files, progress
from unet3d.engines import export_cache
from unet3d.engines.base import Request
from unet3d.network import quantization
from unet3d.network.quantization import Ranges

if TYPE_CHECKING:
    from torch import nn

FILE = "ranges.json"


def ranges(reference: nn.Module, request: Request) -> tuple[dict[str, Ranges], dict[str, float]]:
    """Ranges of each convolution's inputs by name, and the seconds spent by name.

    Raises:
        UserError: when the volumes to calibrate with cannot be read.
    """
    import torch

    from unet3d.network.inference import InferenceUNet

    assert request.calibration is not None, "refused otherwise"
    start = perf_counter()
    with progress.phase("reading volumes to calibrate with"):
        volumes = list(request.calibration())
    seconds = {"calibration volumes": perf_counter() - start}
    ingredients = [
        "int8 ranges",
        export_cache.parameters_hash(reference),
        repr(reference),
        export_cache.sources_hash(quantization),
        *export_cache.versions(("torch",)),
        *(export_cache.volume_hash(volume) for volume in volumes),
    ]

    def make(folder: Path) -> None:
        begin = perf_counter()
        network = InferenceUNet.from_reference(reference).to(request.device.torch_device)
        with progress.phase("finding int8's ranges"):
            ranges_by_name = quantization.calibrate(network, (torch.from_numpy(volume) for volume in volumes))
        json_files.write(folder / FILE, {name: dataclasses.asdict(item) for name, item in ranges_by_name.items()})
        seconds["calibrate"] = perf_counter() - begin

    folder, _ = export_cache.get_or_make(request.cache_dir / "int8-ranges", ingredients, make)
    kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return {
        name: Ranges(tuple(item["channels"]), tuple(item["steps"]), tuple(item["zeros"])) for name, item in kept.items()
    }, seconds
