"""From logits to labels, where the logits are: on the host or on a device.

PyTorch's argmax takes a second of one core for a volume whose classes are outermost in memory, as long as a network on AMX.
Where classes are innermost and the CPU's operators are there, one pass of ours takes a tenth of several of PyTorch's.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from unet3d.network.cpu_ops import build
from unet3d.workload import CLASSES

if TYPE_CHECKING:
    import torch

# Planes that are worked off at a time on the host: what lies between their steps stays in the caches.
PLANES = 16


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit of each voxel, the first of equal ones.

    logits: finite [N, 4, z, y, x] of any floating-point type and layout. Returns uint8 [N, z, y, x] on the same device.
    """
    import torch

    with torch.inference_mode():
        if logits.shape[1] != len(CLASSES):
            return logits.argmax(dim=1).to(torch.uint8)
        labels = torch.empty((logits.shape[0], *logits.shape[2:]), dtype=torch.uint8, device=logits.device)
        if logits.device.type == "cpu":
            _on_host(logits, labels)
        elif _innermost(logits) and importlib.util.find_spec("triton") is not None:
            from unet3d.network.triton_ops import labels as kernel

            kernel.most_likely(logits, labels)
        else:
            _of_four(logits, labels)
        return labels


def _on_host(logits: torch.Tensor, labels: torch.Tensor) -> None:
    import torch

    if _innermost(logits) and build.has_passes(logits.dtype):
        torch.ops.unet3d_fused.labels(logits, labels)
        return
    for first in range(0, logits.shape[2], PLANES):
        _of_four(logits[:, :, first : first + PLANES], labels[:, first : first + PLANES])


def _innermost(logits: torch.Tensor) -> bool:
    import torch

    return logits.is_contiguous(memory_format=torch.channels_last_3d)


def _of_four(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """A tournament of two rounds. A later class wins only if it is larger."""
    import torch

    first, second, third, fourth = logits.unbind(1)
    lower, upper = second > first, fourth > third
    wins = torch.maximum(third, fourth) > torch.maximum(first, second)
    torch.where(wins, upper.view(torch.uint8) + 2, lower.view(torch.uint8), out=labels)
