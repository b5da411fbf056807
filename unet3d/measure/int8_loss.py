"""What quantisation costs: Dice of nnU-Net's network in fp32 on the very cases that were scored in int8.

The fp32 scores depend on weights, volume and truth alone, so each is kept by these and computed once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import caches, progress
from unet3d.brats import regions
from unet3d.engines import export_cache
from unet3d.files import write_atomically
from unet3d.measure.accuracy import Cases, Predictions
from unet3d.results.console import Console
from unet3d.results.facts import Dice, Fp32Dice, RunWarning, Scores, Told

if TYPE_CHECKING:
    import torch

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
    import torch

    from unet3d.brats.preprocessing.store import VERSION

    identity = "\n".join(
        [
            export_cache.parameters_hash(reference),
            repr(reference),
            f"preprocessing {VERSION}",
            *export_cache.versions(("torch",)),
        ]
    )
    folder = Path(cache_dir) / "fp32-dice"
    caches.hold(folder.parent, folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    scores: dict[str, Scores] = {}
    with progress.phase("Dice in fp32", len(cases.names), "cases") as phase:
        for name in cases.names:
            volume, case = cases.store.load(name), cases.by_name[name]
            digest = hashlib.sha256(volume.array.tobytes())
            digest.update(case.truth.read_bytes())
            key = digest.hexdigest()
            if key not in known:
                with torch.inference_mode():
                    labels = reference(torch.from_numpy(volume.array[None])).argmax(dim=1)[0].to(torch.uint8).numpy()
                predictions = Predictions()
                predictions.add(case, volume.properties, labels, None)
                known[key] = predictions.scores[name]
                write_atomically(file, json.dumps(known, indent=1) + "\n")
            scores[name] = known[key]
            phase.advance()
    return scores


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
