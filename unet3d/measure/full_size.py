"""The check at full size: one inference of the very object that is timed, against fp32 values that are kept.

Some mistakes show at full size only: sums over millions of equal numbers (OpenVINO's normalisation), kernels that are chosen
by the extents (onnx-mlir's, cuDNN's). The volume is like a preprocessed case: noise in an ellipsoid, and around it a constant
background, which is most of the volume. fp32's logits of some of its voxels are computed once and kept, since they depend on
the weights and the shape alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet3d import progress
from unet3d.brats import noise
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import host
from unet3d.engines import export_cache
from unet3d.errors import MismatchError
from unet3d.measure import against_fp32
from unet3d.planning import memory
from unet3d.results.facts import Agreement, RunWarning

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from unet3d.config.values import Settings
    from unet3d.engines.base import Engine

KIND = "fp32-voxels"  # of unet3d.caches
FILE = "logits.npy"
SEED = 20190224
# Voxels that are compared: half of them anywhere, half of them inside the ellipsoid.
VOXELS = 2**15
# An engine that is right is about as far from fp32 as it is on a small volume. What is further away by more than this factor is
# warned of, and what is further than its precision explains ends the run.
FACTOR = 2.0


@dataclass(frozen=True)
class Expected:
    """fp32's logits [voxels, classes] of the volume of this shape [z, y, x]."""

    shape: tuple[int, int, int]
    logits: NDArray[np.float32]


def applies(settings: Settings) -> bool:
    """Whether a run is checked at its own size: not where it is not wanted, nor where the check before was as large."""
    return settings.full_size_check and prod(settings.volume_shape) > prod(against_fp32.SHAPE[2:])


def lacks_memory(settings: Settings, base_features: int) -> list[RunWarning]:
    """A warning where fp32's logits cannot be computed here."""
    needed, free = memory.needed("fp32", settings.volume_shape, 1, 1, base_features), host.available_memory()
    if needed <= free:
        return []
    return [
        RunWarning(
            "no-full-size-check",
            f"the output at full size was not compared with fp32, which needs about {needed / 2**30:.1f} GiB of memory; "
            f"{free / 2**30:.1f} GiB are free.",
            "Free memory, or compare Dice with another ENGINE before trusting its labels.",
        )
    ]


def volume(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Noise with a background: float32 [1, 4, z, y, x]."""
    return noise.with_background(shape, np.random.default_rng(SEED))[None]


def voxels(shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """Places of the voxels that are compared, in the flattened volume."""
    rng = np.random.default_rng(SEED)
    anywhere = rng.integers(0, prod(shape), VOXELS // 2)
    return np.concatenate([anywhere, rng.choice(np.flatnonzero(noise.inside(shape)), VOXELS // 2)])


def expected(reference: torch.nn.Module, shape: tuple[int, int, int], cache_dir: Path) -> Expected:
    """fp32's logits of a volume of this shape, from the cache or computed on the CPU.

    They are PyTorch's own operators', whose moments are summed in pairs, whatever computes the run.
    """
    import sys

    from unet3d.network import inference

    ingredients = [
        KIND,
        export_cache.parameters_hash(reference),
        repr(reference),
        repr(shape),
        export_cache.sources_hash(sys.modules[__name__], noise, inference),
        *export_cache.versions(("torch", "numpy")),
    ]

    def make(folder: Path) -> None:
        import torch

        network = inference.InferenceUNet.from_reference(reference)
        with progress.phase("computing fp32's logits at full size, once"), torch.inference_mode():
            logits = network(torch.from_numpy(volume(shape)))[0].flatten(1)
            np.save(folder / FILE, logits[:, torch.from_numpy(voxels(shape))].T.contiguous().numpy())

    folder, _ = export_cache.get_or_make(cache_dir / KIND, ingredients, make)
    return Expected(shape, np.load(folder / FILE, allow_pickle=False))


def _batch(shape: tuple[int, int, int], size: int) -> NDArray[np.float32]:
    """The volume as each sample of a batch. One sample is no copy, which would be as large again."""
    one = volume(shape)
    return one if size == 1 else np.repeat(one, size, axis=0)


def check(engine: Engine, wanted: Expected, small: Agreement) -> tuple[Agreement, list[RunWarning]]:
    """One inference of a compiled engine, each sample of its batch compared; the worst one's agreement.

    small: the agreement on a small volume.

    Raises:
        MismatchError: when the output has NaN or Inf, or is further from fp32 than the precision explains.
    """
    logits = engine.logits(engine.infer(engine.stage(_batch(wanted.shape, engine.request.shape[0]))))
    found = logits.reshape(*logits.shape[:2], -1)[:, :, voxels(wanted.shape)]
    # As volumes of one row of voxels.
    reference = wanted.logits.T[None, :, None, None, :]
    agreements = [against_fp32.compare(sample[None, :, None, None, :], reference, engine.request.precision) for sample in found]
    worst = replace(max(agreements, key=lambda one: one.relative_error), shape=engine.request.shape)
    what = f"PRECISION={engine.request.precision} ENGINE={engine.request.engine} NETWORK={engine.request.network}"
    told = (
        f"{what}: at full size, with a constant background, the output differs from fp32 by {worst.relative_error:.2g} "
        f"(relative), on a small volume by {small.relative_error:.2g}; labels agree in {worst.label_agreement:.2%} of voxels"
    )
    if not worst.finite or worst.relative_error > worst.limit:
        raise MismatchError(
            f"{told}. At most {worst.limit} is plausible; nothing was timed. Try another ENGINE, NETWORK, PRECISION or version "
            "of the engine, or FULL_SIZE_CHECK=no to time it all the same"
        )
    if worst.relative_error > max(PRECISIONS[engine.request.precision].unsaid_error, FACTOR * small.relative_error):
        return worst, [
            RunWarning(
                "full-size-error",
                f"{told}.",
                "Compare Dice with another ENGINE before trusting its labels.",
            )
        ]
    return worst, []
