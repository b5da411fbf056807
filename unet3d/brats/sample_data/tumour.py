"""Seeded tumours with the parts that BraTS labels: necrotic core, enhancing rim, non-enhancing part, edema."""

from dataclasses import dataclass

import numpy as np

from unet3d.brats.sample_data.anatomy import Brain, rotation, smooth_noise

# BraTS' labels: necrotic core and non-enhancing tumour share one.
LABELS = {"necrotic": 1, "non_enhancing": 1, "edema": 2, "enhancing": 4}


@dataclass
class Tumour:
    """Boolean masks over the brain box, not overlapping, by the names in LABELS; `labels` uint8 as BraTS has them."""

    parts: dict[str, np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        labels = np.zeros(next(iter(self.parts.values())).shape, np.uint8)
        for name, mask in self.parts.items():
            labels[mask] = LABELS[name]
        return labels


def make_tumour(rng: np.random.Generator, brain: Brain, enhancing: bool) -> Tumour:
    """A tumour inside the brain. Without an enhancing rim it has no necrotic core either and little edema,
    as low-grade gliomas tend to look."""
    centre = _choose_centre(rng, brain)
    radius = rng.uniform(12, 20) if enhancing else rng.uniform(13, 22)
    lobe_direction = rotation(rng, 180) @ np.array([1.0, 0, 0])

    body = _distance(rng, brain, centre, roughness=0.16 * radius)
    lobe = _distance(rng, brain, centre + 0.85 * radius * lobe_direction, roughness=0.12 * radius)
    core = (body < radius) & brain.mask
    # A non-enhancing lobe bulges out on one side of the core.
    outgrowth = (lobe < 0.6 * radius) & brain.mask & ~core

    # Edema follows white matter and spares the ventricles.
    reach = rng.uniform(8, 16) if enhancing else rng.uniform(3, 8)
    spread = np.minimum(body - radius, lobe - 0.6 * radius) + 2.5 * smooth_noise(rng, brain.axes, 9)
    edema = (spread < reach * (0.35 + brain.white)) & (brain.fluid < 0.5) & brain.mask & ~core & ~outgrowth

    if not enhancing:
        return Tumour({"non_enhancing": core | outgrowth, "edema": edema})
    thickness = np.clip(0.28 * radius * (1 + 0.4 * smooth_noise(rng, brain.axes, 10)), 2.0, None)
    necrotic = core & (body < radius - thickness)
    return Tumour({"necrotic": necrotic, "enhancing": core & ~necrotic, "non_enhancing": outgrowth, "edema": edema})


def _choose_centre(rng: np.random.Generator, brain: Brain) -> np.ndarray:
    """A point in the white matter of one hemisphere, well inside the brain and above the cerebellum; in mm."""
    from scipy.ndimage import gaussian_filter

    x, _, z = np.meshgrid(*brain.axes, indexing="ij", sparse=True)
    mm_per_voxel = brain.axes[0][1] - brain.axes[0][0]
    depth = gaussian_filter(brain.mask.astype(np.float32), 6 / mm_per_voxel)
    allowed = (depth > 0.97) & (brain.white > 0.4) & (np.abs(x) > 16) & (z > -20) & (z < 50)
    candidates = np.argwhere(allowed)
    voxel = candidates[rng.integers(len(candidates))]
    return np.array([axis[i] for axis, i in zip(brain.axes, voxel, strict=True)])


def _distance(rng: np.random.Generator, brain: Brain, centre: np.ndarray, roughness: float) -> np.ndarray:
    """Distance in mm from `centre`, stretched into a random ellipsoid and roughened: its level sets are lumpy."""
    stretch = np.diag(rng.uniform(0.8, 1.3, 3)) @ rotation(rng, 180)
    x, y, z = np.meshgrid(*(axis - c for axis, c in zip(brain.axes, centre, strict=True)), indexing="ij", sparse=True)
    square = sum((row[0] * x + row[1] * y + row[2] * z) ** 2 for row in stretch)
    bumps = smooth_noise(rng, brain.axes, 12) + 0.4 * smooth_noise(rng, brain.axes, 5)
    return (np.sqrt(square) + roughness * bumps).astype(np.float32)
