"""What the oneDNN inside PyTorch computes on this CPU."""

from __future__ import annotations

from unet3d.config.precisions import PRECISIONS

# What a CPU must have for oneDNN to compute convolutions in a half precision.
HALF_NEEDS = {precision.name: precision.onednn_needs for precision in PRECISIONS.values() if precision.onednn_needs}


def computes(precision: str) -> bool:
    """Whether oneDNN has convolutions in bf16 or fp16 for this CPU (see HALF_NEEDS).

    Where it has none, PyTorch computes them by a loop of its own at 0.2 GFLOP/s, which is hours per volume.
    """
    import torch

    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")())
