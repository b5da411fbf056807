"""Noise that stands in for cases: as dummy runs have it, and with the background that cases have around the brain.

InstanceNorm's statistics depend on how much of a volume is background, so that what is right for the one can be wrong for the
other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unet3d.workload import MODALITIES

INSIDE = 0.7  # the ellipsoid's axes over the volume's extents, so that 18% of the volume are inside


def everywhere(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Standard normal noise: float32 [4, z, y, x]."""
    return generator.standard_normal((len(MODALITIES), *shape), dtype=np.float32)


def inside(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether a voxel [z, y, x] is inside the ellipsoid in the middle."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, extent * 1j) for extent in shape)]
    found: NDArray[np.bool_] = z * z + y * y + x * x < INSIDE**2
    return found


def with_background(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Standard normal noise inside the ellipsoid, zeros around it, as a preprocessed case has: float32 [4, z, y, x]."""
    return everywhere(shape, generator) * inside(shape)
