"""What each MRI modality shows of a brain and a tumour, with a bias field and noise."""

from dataclasses import dataclass

import numpy as np

from unet3d.brats.sample_data.anatomy import Brain, smooth_noise
from unet3d.brats.sample_data.tumour import Tumour


@dataclass(frozen=True)
class Contrast:
    """Brightness in a modality relative to white matter in T1.

    tissue: of white matter, grey matter, fluid. detail: how much of the template's own fine T1 detail shows. parts: of
    each part of a tumour.
    """

    tissue: tuple[float, float, float]
    detail: float
    parts: dict[str, float]


# As radiology textbooks describe them: fluid and edema bright in T2, fluid dark and edema bright in FLAIR, the rim bright
# after contrast agent only.
CONTRASTS = {
    "t1": Contrast((0.87, 0.65, 0.27), 1.0, {"necrotic": 0.42, "enhancing": 0.62, "non_enhancing": 0.55, "edema": 0.62}),
    "t1ce": Contrast((0.87, 0.68, 0.28), 1.0, {"necrotic": 0.38, "enhancing": 1.30, "non_enhancing": 0.55, "edema": 0.62}),
    "t2": Contrast((0.38, 0.55, 1.00), -0.4, {"necrotic": 0.98, "enhancing": 0.66, "non_enhancing": 0.84, "edema": 0.76}),
    "flair": Contrast((0.50, 0.64, 0.20), -0.2, {"necrotic": 0.55, "enhancing": 0.84, "non_enhancing": 0.88, "edema": 1.08}),
}
TEMPLATE_TISSUE = CONTRASTS["t1"].tissue


def make_modality(rng: np.random.Generator, modality: str, brain: Brain, tumour: Tumour) -> np.ndarray:
    """One modality over the brain box: int16, at least 1 inside the brain, 0 outside."""
    from scipy.ndimage import gaussian_filter

    contrast = CONTRASTS[modality]
    maps = (brain.white, brain.grey, brain.fluid)
    detail = brain.t1 - sum(level * m for level, m in zip(TEMPLATE_TISSUE, maps, strict=True))
    image = sum(level * rng.uniform(0.96, 1.04) * m for level, m in zip(contrast.tissue, maps, strict=True))
    image += contrast.detail * detail

    texture = 1 + 0.06 * smooth_noise(rng, brain.axes, 6)
    mm_per_voxel = brain.axes[0][1] - brain.axes[0][0]
    for name, mask in tumour.parts.items():
        # Soft borders: a voxel at a border holds some of either side.
        share = gaussian_filter(mask.astype(np.float32), 0.7 / mm_per_voxel)
        # Edema is water in tissue that is still there.
        share *= 0.8 if name == "edema" else 0.95
        image += share * (contrast.parts[name] * rng.uniform(0.93, 1.07) * texture - image)

    image *= np.exp(0.1 * smooth_noise(rng, brain.axes, 80))
    sigma = rng.uniform(0.015, 0.035)
    noise = sigma * rng.standard_normal((2, *image.shape), dtype=np.float32)
    # Magnitude images of a scanner have Rician noise: that of the length of a complex number.
    image = np.hypot(image + noise[0], noise[1])
    image = np.clip(np.rint(image * rng.uniform(300, 900)), 1, np.iinfo(np.int16).max)
    return (image * brain.mask).astype(np.int16)
