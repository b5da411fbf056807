"""A brain for a sample case: the MNI152 template, turned, scaled, mirrored and bent by a seeded generator."""

import functools
from dataclasses import dataclass

import numpy as np

# The region around the centre of the 240x240x155 grid that holds the brain: all work is done inside it.
FULL_SIZE = (240, 240, 155)
BRAIN_BOX = (160, 200, 155)
# Voxel of the template that is put at the centre of the grid: the middle of its brain.
TEMPLATE_CENTRE = np.array([98.0, 117.0, 77.0])


@dataclass
class Brain:
    """Maps over the brain box, float32 in 0..1 (`mask`: bool); `axes` are the positions along each axis in mm."""

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    mask: np.ndarray
    axes: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def fluid(self) -> np.ndarray:
        return np.clip(1 - self.grey - self.white, 0, 1) * self.mask


@functools.cache
def template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T1, grey-matter and white-matter maps of MNI152 at 1 mm, from the files that nilearn ships (no download)."""
    from nilearn import datasets

    loaders = (datasets.load_mni152_template, datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    t1, grey, white = (np.asarray(load(resolution=1).dataobj, dtype=np.float32) for load in loaders)
    return t1, grey, white


def box_axes(size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions in mm, from the centre of the grid, of the voxels of the brain box along each axis.

    A smaller `size` means a smaller picture of the same brain: a voxel then stands for several mm of it.
    """
    mm_per_voxel = max(full / n for full, n in zip(FULL_SIZE, size, strict=True))
    counts = [min(n, round(box / mm_per_voxel)) for n, box in zip(size, BRAIN_BOX, strict=True)]
    x, y, z = ((np.arange(count) - (count - 1) / 2) * mm_per_voxel for count in counts)
    return x, y, z


def smooth_noise(rng: np.random.Generator, axes, wavelength: float) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 that varies over about `wavelength` mm; float32 over the axes.

    Independent normal numbers at knots, joined by a Gaussian kernel along each axis in turn.
    """
    weights = []
    for axis in axes:
        knots = np.arange(axis[0] - 2 * wavelength, axis[-1] + 3 * wavelength, wavelength)
        kernel = np.exp(-0.5 * ((axis[:, None] - knots) / (0.6 * wavelength)) ** 2)
        weights.append((kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32))
    noise = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    # Each step replaces the first axis of knots by voxels and moves it to the end: after three the order is back.
    for weight in weights:
        noise = np.tensordot(noise, weight, axes=(0, 1))
    return noise


def rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A rotation by up to `degrees` about each of the three axes; 3x3."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()


def make_brain(rng: np.random.Generator, size: tuple[int, int, int]) -> Brain:
    """A seeded variation of the template brain on BraTS' axes: left, posterior, superior."""
    from scipy.ndimage import binary_fill_holes, map_coordinates

    axes = box_axes(size)
    scale = rng.uniform(0.88, 0.96) * rng.uniform(0.97, 1.03, 3)
    # The template runs right, anterior, superior: two axes are turned round; one brain in two is mirrored besides.
    directions = np.diag([rng.choice([-1.0, 1.0]), -1.0, 1.0])
    to_template = directions @ rotation(rng, 5) @ np.diag(1 / scale)

    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    position = (to_template @ grid).reshape(3, *(len(axis) for axis in axes))
    position += TEMPLATE_CENTRE[:, None, None, None]
    for direction in range(3):
        position[direction] += rng.uniform(1.0, 2.2) * smooth_noise(rng, axes, 30)

    t1, grey, white = (map_coordinates(volume, position, order=1, output=np.float32) for volume in template())
    mask = binary_fill_holes(t1 > 0.12)
    return Brain(t1 * mask, grey * mask, white * mask, mask, axes)
