"""nnU-Net's network as an ONNX file, by PyTorch's exporter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import progress
from unet3d.engines import export_cache

if TYPE_CHECKING:
    import torch

OPSET = 17
INPUT, OUTPUT = "volume", "logits"


def export(reference: torch.nn.Module, cache_dir: Path) -> tuple[Path, bool]:
    """Path of the ONNX file (float32, any batch size and extent) and whether it was kept from an earlier run.

    reference: [N, 4, D, H, W] -> [N, classes, D, H, W]; only this path is exported, not the auxiliary heads.
    """
    ingredients = [
        "onnx",
        str(OPSET),
        export_cache.parameters_hash(reference),
        repr(reference),
        *export_cache.versions(("torch", "onnx")),
    ]

    def make(folder: Path) -> None:
        import torch

        from unet3d.network.nnunet_types import generic_unet

        axes = {0: "batch", 2: "depth", 3: "height", 4: "width"}
        example = torch.zeros(1, generic_unet(reference).conv_blocks_context[0].input_channels, 64, 64, 64)
        with progress.phase("exporting the network to ONNX"), torch.inference_mode(), warnings.catch_warnings():
            # The exporter by tracing is deprecated; the newer one needs one more package for the same graph.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                reference,
                (example,),
                str(folder / "model.onnx"),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: axes, OUTPUT: axes},
                opset_version=OPSET,
                dynamo=False,
            )

    folder, was_there = export_cache.get_or_make(cache_dir / "onnx", ingredients, make)
    return folder / "model.onnx", was_there
