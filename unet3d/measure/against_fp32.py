"""The check before timing: the network's output in the chosen precision against nnU-Net's own form in fp32.

Fast and wrong is worth nothing: releases of PyTorch computed bf16 3D convolutions wrongly or ten times slower than
before without a word (for example pytorch issue 163539). A run whose logits are far from fp32 is stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from unet3d.config.precisions import PRECISIONS
from unet3d.errors import MismatchError
from unet3d.results.facts import Agreement
from unet3d.workload import input_shape

if TYPE_CHECKING:
    import torch

    from unet3d.engines.base import Engine

SHAPE = input_shape(extent=(64, 64, 64))


def compare(logits: np.ndarray, reference: np.ndarray, precision: str) -> Agreement:
    """Agreement of logits with fp32 reference logits, both float32 [N, classes, z, y, x]."""
    finite = bool(np.isfinite(logits).all())
    error = float(np.linalg.norm(logits - reference) / np.linalg.norm(reference)) if finite else float("inf")
    same = float((logits.argmax(axis=1) == reference.argmax(axis=1)).mean()) if finite else 0.0
    return Agreement(logits.shape, error, same, PRECISIONS[precision].error_limit, finite)


def check(engine: Engine, reference: torch.nn.Module, seed: int) -> Agreement:
    """Run the engine and nnU-Net's fp32 form on the same small random volume.

    Raises:
        MismatchError: when the output has NaN or Inf, or is further from fp32 than the precision explains.
    """
    import torch

    volume = np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)
    logits = engine.compare(volume)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(volume)).numpy()
    agreement = compare(logits, expected, engine.request.precision)
    what = f"PRECISION={engine.request.precision} ENGINE={engine.request.engine} JIT={engine.request.jit}"
    if not agreement.finite:
        raise MismatchError(
            f"{what}: the output has NaN or Inf, fp32 has none; nothing was timed. "
            "Try PRECISION=bf16 or fp32, or another version of the engine"
        )
    if agreement.relative_error > agreement.limit:
        raise MismatchError(
            f"{what}: the output differs from fp32 by {agreement.relative_error:.3g} (relative; at most "
            f"{agreement.limit} is plausible), labels agree in {agreement.label_agreement:.1%} of "
            "voxels; nothing was timed. Try another PRECISION, JIT or version of the engine"
        )
    return agreement
