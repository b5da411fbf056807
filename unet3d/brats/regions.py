"""Dice of the three tumour regions, as nnU-Net 1.7.1 (nnunet.evaluation.region_based_evaluation) and MLPerf's
accuracy script for this model define them.

Labels are nnU-Net's: 1 edema, 2 necrotic core and non-enhancing tumour, 3 enhancing tumour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unet3d.workload import REGIONS


@dataclass(frozen=True)
class Summary:
    """Means over cases, as fractions. `means`: WT, TC, ET, over the cases where the region is defined, None where it is
    nowhere. `total`: mean of the three, None when one is None. `undefined`: number of cases left out of each mean."""

    means: dict[str, float | None]
    total: float | None
    undefined: dict[str, int]
    cases: int


def dice(prediction: np.ndarray, truth: np.ndarray) -> float | None:
    """Dice of two boolean masks of one shape: 2 |A and B| / (|A| + |B|); None when both are empty (0/0)."""
    size = np.count_nonzero(prediction) + np.count_nonzero(truth)
    if size == 0:
        return None
    return 2 * np.count_nonzero(prediction & truth) / size


def score(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Dice of WT, TC and ET; None where prediction and truth both lack the region.

    Both are label maps [z, y, x] in the original space of the case, before any cropping and padding.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    return {region: dice(np.isin(prediction, labels), np.isin(truth, labels)) for region, labels in REGIONS.items()}


def summarise(scores: Sequence[Mapping[str, float | None]]) -> Summary:
    """Means of `score`'s results. Undefined values are left out, as nnU-Net's nanmean does."""
    defined = {region: [value for case in scores if (value := case[region]) is not None] for region in REGIONS}
    means = {region: float(np.mean(values)) if values else None for region, values in defined.items()}
    known = [mean for mean in means.values() if mean is not None]
    total = float(np.mean(known)) if len(known) == len(means) else None
    undefined = {region: len(scores) - len(values) for region, values in defined.items()}
    return Summary(means, total, undefined, len(scores))
