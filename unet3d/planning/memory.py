"""Memory that a run needs at least, so that one that cannot succeed is refused before it begins."""

from __future__ import annotations

from math import prod

from unet3d.config.precisions import PRECISIONS
from unet3d.workload import CLASSES, MODALITIES

# Input and logits, the concatenation (twice the base features) and the convolution's output, all alive at once.
WIDEST_IN_BASE_FEATURES = 3
FLOAT32_BYTES = 4


def needed(precision: str, volume_shape: tuple[int, int, int], batch_size: int, streams: int, base_features: int) -> int:
    """Bytes that the largest layers need at least: the widest full-resolution tensors and the weights.

    base_features: channels of the network's first layer.
    """
    channels = len(MODALITIES) + len(CLASSES) + WIDEST_IN_BASE_FEATURES * base_features
    a_voxel = PRECISIONS[precision].bytes * channels + FLOAT32_BYTES * len(CLASSES)
    return batch_size * prod(volume_shape) * streams * a_voxel
