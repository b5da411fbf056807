"""nnU-Net's network as an ONNX file, by PyTorch's exporter."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import progress
from unet3d.config.precisions import PRECISIONS
from unet3d.engines import export_cache

if TYPE_CHECKING:
    import torch

OPSET = 17
INPUT, OUTPUT = "volume", "logits"
# Names of the extents that are left open, by axis.
EXTENTS = {0: "batch", 2: "depth", 3: "height", 4: "width"}
# Of the volume that it is traced with, as small as the five poolings allow: a CPU takes seconds for it in fp16.
TRACED = (32, 32, 64)


def export(reference: torch.nn.Module, cache_dir: Path, precision: str, device: torch.device) -> tuple[Path, bool]:
    """Path of the ONNX file (any batch size and extent) and whether it was kept from an earlier run.

    reference: [N, 4, D, H, W] -> [N, classes, D, H, W]; only this path is exported, not the auxiliary heads. Weights, input and
    logits are of the precision. device: where a copy of it is traced.
    """
    ingredients = [
        "onnx",
        str(OPSET),
        export_cache.parameters_hash(reference),
        repr(reference),
        precision,
        *export_cache.versions(("torch", "onnx")),
    ]

    def make(folder: Path) -> None:
        import torch

        from unet3d.network.nnunet_types import generic_unet

        dtype = PRECISIONS[precision].dtype()
        channels = generic_unet(reference).conv_blocks_context[0].input_channels
        example = torch.zeros((1, channels, *TRACED), dtype=dtype, device=device)
        network = reference if (dtype, device.type) == (torch.float32, "cpu") else deepcopy(reference).to(device, dtype)
        with progress.phase("exporting the network to ONNX"), torch.inference_mode(), warnings.catch_warnings():
            # The exporter by tracing is deprecated; the newer one needs one more package for the same graph.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                str(folder / "model.onnx"),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: EXTENTS, OUTPUT: EXTENTS},
                opset_version=OPSET,
                dynamo=False,
            )

    folder, was_there = export_cache.get_or_make(cache_dir / "onnx", ingredients, make)
    return folder / "model.onnx", was_there
