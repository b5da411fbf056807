"""What quantisation costs: Dice of nnU-Net's network in fp32 on the very cases that were scored in int8.

The fp32 scores depend on weights, volume and truth alone, so each is kept by these and computed once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import files, json_files, progress
from unet3d.brats import nifti, regions
from unet3d.engines import export_cache
from unet3d.measure.accuracy import Cases, Predictions
from unet3d.results.console import Console
from unet3d.results.facts import Dice, Fp32Dice, RunWarning, Scores, Told

if TYPE_CHECKING:
    import torch

    from unet3d.brats.dataset import Case
    from unet3d.brats.preprocessing import Volume

FILE, LARGEST_SCORES = "dice.json", 2**16
# A relative loss of more than this is warned of.
NOTABLE = 0.01


@dataclass(frozen=True)
class Loss:
    """A run's Dice with fp32's beside it, and what results tell of the difference."""

    dice: Dice
    told: Told


def compare(dice: Dice, reference: torch.nn.Module, cases: Cases, cache_dir: Path, out: Console) -> Loss:
    """Put fp32's Dice on the run's cases beside the run's own, print the difference, and warn where it is notable.

    The fp32 scores are kept in `cache_dir`.
    """
    out.info(f"comparing with fp32 on the same {len(cases.names)} cases")
    scores = fp32_scores(reference, cases, cache_dir)
    summary = regions.summarise([scores[name] for name in cases.names])
    means = {**summary.means, "total": summary.total}
    loss = {region: relative_loss(dice.of(region), value) for region, value in means.items()}
    shown = {region: "undefined" if value is None else f"{value:.2%}" for region, value in loss.items()}
    out.info(
        f"Dice against fp32 on the same cases: fp32 total {summary.total or 0:.4f}, relative loss "
        + ", ".join(f"{region} {text}" for region, text in shown.items())
    )
    figures = [
        ("accuracy_fp32", _percent(summary.total), "percents"),
        ("accuracy_relative_loss_from_fp32", _percent(loss["total"]), "percents"),
    ]
    notable = [f"{region} {shown[region]}" for region, value in loss.items() if value is not None and value > NOTABLE]
    warnings = [
        RunWarning(
            "int8-accuracy",
            f"int8 loses more than {NOTABLE:.0%} of fp32's Dice: {', '.join(notable)}.",
            "Use PRECISION=bf16 or fp32 where this matters.",
        )
    ]
    fp32 = Fp32Dice(summary.means, summary.total, scores, loss)
    return Loss(replace(dice, fp32=fp32), Told(figures, warnings if notable else []))


def relative_loss(ours: float | None, fp32: float | None) -> float | None:
    """How much of fp32's Dice is lost, relative to it; None where either is undefined or fp32's is zero."""
    return (fp32 - ours) / fp32 if fp32 and ours is not None else None


def fp32_scores(reference: torch.nn.Module, cases: Cases, cache_dir: Path) -> dict[str, Scores]:
    """Each case's Dice by nnU-Net's own module in PyTorch in fp32, whatever the run's engine; known ones are not run again."""
    from unet3d.brats.preprocessing.store import VERSION

    network = [
        export_cache.parameters_hash(reference),
        repr(reference),
        f"preprocessing {VERSION}",
        *export_cache.versions(("torch",)),
    ]
    scores: dict[str, Scores] = {}
    with progress.phase("Dice in fp32", len(cases.names), "cases") as phase:
        for name in cases.names:
            volume, case = cases.store.load(name), cases.by_name[name]
            _, truth = files.sha256_regular(case.truth, nifti.LARGEST_FILE, "seg")
            of_case = [*network, export_cache.volume_hash(volume.array), truth]
            folder, _ = export_cache.get_or_make(cache_dir / "fp32-dice", of_case, partial(_score, reference, case, volume))
            scores[name] = json_files.read(folder / FILE, LARGEST_SCORES, "Dice")
            phase.advance()
    return scores


def _score(reference: torch.nn.Module, case: Case, volume: Volume, folder: Path) -> None:
    """Write the case's Dice into a folder."""
    import torch

    with torch.inference_mode():
        labels = reference(torch.from_numpy(volume.array[None])).argmax(dim=1)[0].to(torch.uint8).numpy()
    predictions = Predictions()
    predictions.add(case, volume.properties, labels, None)
    json_files.write(folder / FILE, predictions.scores[case.name])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
