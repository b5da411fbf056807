"""The network as OpenVINO IR files (float32, any batch size and extent)."""

from __future__ import annotations

import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d import progress
from unet3d.engines import export_cache

if TYPE_CHECKING:
    import openvino
    import torch


def ingredients(reference: torch.nn.Module, network: str, merge: bool = True) -> list[str]:
    """Everything that decides what `exported` writes."""
    from unet3d.engines.openvino import graph
    from unet3d.network import merging

    form = [f"merge={merge}", export_cache.sources_hash(graph, merging)] if network == "fast" else []
    return [
        "openvino",
        network,
        export_cache.parameters_hash(reference),
        repr(reference),
        *form,
        *export_cache.versions(("torch", "openvino")),
    ]


def make_model(reference: torch.nn.Module, network: str, merge: bool = True) -> openvino.Model:
    """fast: our graph, `merge` as its `build` takes it; reference: OpenVINO's conversion of the module."""
    import openvino

    if network == "fast":
        from unet3d.engines.openvino.graph import build

        return build(reference, merge)
    import torch

    from unet3d.network.nnunet_types import generic_unet

    channels = generic_unet(reference).conv_blocks_context[0].input_channels
    with torch.inference_mode(), warnings.catch_warnings():
        # Checks of shapes inside torch are recorded as constants; extents and batch size stay open all the same.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(reference, torch.zeros(1, channels, 64, 32, 32), check_trace=False)
        model = openvino.convert_model(traced, input=[-1, channels, -1, -1, -1])
    model.input(0).set_names({"volume"})
    model.output(0).set_names({"logits"})
    return model


def exported(reference: torch.nn.Module, network: str, cache_dir: Path) -> tuple[Path, dict[str, float]]:
    """Path of the IR's .xml, and the seconds spent by name."""
    import openvino

    start = perf_counter()

    def make(folder: Path) -> None:
        with progress.phase("exporting the network to OpenVINO"):
            openvino.save_model(make_model(reference, network), folder / "model.xml", compress_to_fp16=False)

    folder, was_there = export_cache.get_or_make(cache_dir / "openvino", ingredients(reference, network), make)
    return folder / "model.xml", {"read export" if was_there else "export": perf_counter() - start}
