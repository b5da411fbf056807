"""Slices of three predicted cases for the report: the best, the one in the middle and the worst.

While cases are scored one slice of each one's labels is kept in memory (two bytes a pixel); only the three are written,
with the image below the labels, to `slices.npz` in OUTPUT_DIR.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d import files
from unet3d.brats import npz
from unet3d.errors import UserError, shown
from unet3d.workload import MODALITIES

if TYPE_CHECKING:
    from unet3d.brats.dataset import Case

FILE = "slices.npz"
SHOWN = ("flair", "t1ce")  # oedema is bright in the first, enhancing tumour in the second
PLACES = ("best", "median", "worst")
# Three cases of a slice have a few 10 KiB.
LARGEST_FILE, LARGEST_ARRAY, MOST_ARRAYS = 2**25, 2**22, 64
# First and last row, first and last column, the last ones not counted; they may lie outside of an image.
Box = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Labels:
    """A slice of a case, nnU-Net's labels uint8 [y, x] in the original space; `z` is its index."""

    z: int
    predicted: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Slice:
    """What the report draws of a case. `images`: uint8 [y, x] of each modality in SHOWN. `sides`: which of the patient's
    sides is on the left of the image and which on the right, RL or LR; empty where that is unknown."""

    place: str
    name: str
    labels: Labels
    images: Mapping[str, np.ndarray]
    sides: str = ""


def of_most_tumour(predicted: np.ndarray, truth: np.ndarray) -> Labels:
    """The axial slice with most tumour in the truth, or in the prediction where the truth has none.

    Both are labels [z, y, x] of one shape.
    """
    whole = truth if truth.any() else predicted
    z = int(np.count_nonzero(whole, axis=(1, 2)).argmax())
    return Labels(z, predicted[z].astype(np.uint8), truth[z].astype(np.uint8))


def choose(scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, str]:
    """Place to case name, by the mean of a case's defined regions; fewer than three cases fill fewer places."""
    means = {}
    for name, regions in scores.items():
        if defined := [value for value in regions.values() if value is not None]:
            means[name] = sum(defined) / len(defined)
    order = sorted(means, key=lambda name: (-means[name], name))
    if not order:
        return {}
    chosen = {"best": order[0]}
    if len(order) > 2:
        chosen["median"] = order[len(order) // 2]
    if len(order) > 1:
        chosen["worst"] = order[-1]
    return chosen


def save(
    folder: Path,
    scores: Mapping[str, Mapping[str, float | None]],
    labels_of_cases: Mapping[str, Labels],
    cases: Mapping[str, Case],
) -> None:
    """Write `slices.npz`, whole or not at all.

    Raises:
        OSError: when it cannot be written.
        UserError: when an image cannot be read, or is not the one that was predicted.
    """
    from unet3d.brats import nifti

    arrays: dict[str, Any] = {}
    for place, name in choose(scores).items():
        labels = labels_of_cases[name]
        arrays |= {
            f"{place}_name": np.array(name),
            f"{place}_z": np.array(labels.z),
            f"{place}_predicted": labels.predicted,
            f"{place}_truth": labels.truth,
        }
        for modality in SHOWN:
            path = cases[name].images[MODALITIES.index(modality)]
            image = nifti.read(modality, path)
            voxels = image.voxels
            if labels.z >= len(voxels) or voxels[labels.z].shape != labels.truth.shape:
                raise UserError(f"{modality} of {shown(name)} has changed since it was predicted")
            arrays[f"{place}_{modality}"] = _grey(voxels[labels.z])
            arrays[f"{place}_sides"] = np.array(_sides(image.grid.direction))
    with files.whole_file(folder / FILE) as partial:
        np.savez_compressed(partial, **arrays)


def _sides(direction: Sequence[float]) -> str:
    """RL where columns of an axial slice run to the patient's left, as in SimpleITK's own axes; LR where to the right.

    direction: the image's matrix of direction cosines, 3 x 3, row by row.
    """
    towards_left = direction[0]
    if abs(towards_left) < 0.7:  # the columns run along another axis
        return ""
    return "RL" if towards_left > 0 else "LR"


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 of the same shape, the brightest half percent of the tissue white."""
    tissue = image[image > 0]
    white = float(np.percentile(tissue, 99.5)) if tissue.size else 1.0
    return np.clip(255 * image.astype(np.float64) / white, 0, 255).astype(np.uint8)


def load(folder: Path, scores: Mapping[str, Any]) -> list[Slice]:
    """The slices in `folder` that belong to these scores; none where the file is absent, damaged or of another run."""
    try:
        content = _arrays(files.read_regular(folder / FILE, LARGEST_FILE, "pictures of cases"))
        cases = [_case(content, place) for place in PLACES if f"{place}_name" in content]
    except (UserError, *npz.BROKEN):
        return []
    return cases if all(case.name in scores for case in cases) else []


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
        BROKEN: where it is no such file, or holds more than a report shows.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if len(names) > MOST_ARRAYS:
            raise ValueError("more than a report shows")
        return {name: npz.read(archive, name, LARGEST_ARRAY) for name in names}


def _case(content: Mapping[str, np.ndarray], place: str) -> Slice:
    """What was saved of the case in this place.

    Raises:
        ValueError, KeyError, TypeError: where that are no pictures.
    """
    pictures = [content[f"{place}_{name}"] for name in ("predicted", "truth", *SHOWN)]
    if any(picture.ndim != 2 or not picture.size or picture.dtype != np.uint8 for picture in pictures):
        raise ValueError("no pictures")
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError("pictures of several sizes")
    labels = Labels(int(content[f"{place}_z"]), pictures[0], pictures[1])
    sides = str(content[f"{place}_sides"]) if f"{place}_sides" in content else ""
    return Slice(place, str(content[f"{place}_name"]), labels, dict(zip(SHOWN, pictures[2:], strict=True)), sides)


def picture(case: Slice, modality: str, regions: Mapping[str, tuple[int, ...]], colours: Mapping[str, str], box: Box) -> bytes:
    """A WebP of the image inside `box` (see `common_box`) with regions outlined and the patient's sides marked.

    The prediction is coloured. The truth is a thin line on it of white dashes on black, which shows on dark and on bright
    tissue and leaves a line below it visible.
    """
    from matplotlib import patheffects
    from matplotlib.figure import Figure

    image = _inside(case.images[modality], box)
    figure = Figure(figsize=(3.2, 3.2 * image.shape[0] / image.shape[1]), dpi=130, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    for region, labels in regions.items():
        predicted, truth = (np.isin(_inside(map_, box), labels) for map_ in (case.labels.predicted, case.labels.truth))
        for mask, colour, style, width in (
            (predicted, "black", "solid", 4.0),
            (predicted, colours[region], "solid", 2.8),
            (truth, "black", "solid", 1.4),
            (truth, "white", "dashed", 1.4),
        ):
            if mask.any() and not mask.all():
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width, linestyles=[style])
    for letter, place, side in zip(case.sides, (0.02, 0.98), ("left", "right"), strict=False):
        mark = axes.text(
            place, 0.98, letter, transform=axes.transAxes, ha=side, va="top", color="white", fontsize=15, weight="bold"
        )
        mark.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", facecolor="black", pil_kwargs={"quality": 86})
    return buffer.getvalue()


def common_box(cases: Sequence[Slice], margin: int = 6) -> Box:
    """Rows and columns that hold the heads of all cases, so that pictures of one size show them at one scale."""
    corners = [
        (filled.min(axis=0), filled.max(axis=0))
        for case in cases
        for image in case.images.values()
        if len(filled := np.argwhere(image > 0))
    ]
    if not corners:
        height, width = next(iter(cases[0].images.values())).shape
        return (0, height), (0, width)
    low = np.min([corner for corner, _ in corners], axis=0) - margin
    high = np.max([corner for _, corner in corners], axis=0) + margin + 1
    return (int(low[0]), int(high[0])), (int(low[1]), int(high[1]))


def _inside(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of an image that a box shows; zeros where the box reaches beyond it."""
    (top, bottom), (left, right) = box
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    before = (max(-top, 0), max(-left, 0))
    padded = np.zeros((bottom - top, right - left), image.dtype)
    padded[before[0] : before[0] + part.shape[0], before[1] : before[1] + part.shape[1]] = part
    return padded
