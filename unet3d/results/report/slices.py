"""Slices of three predicted cases for the report: the best, the one in the middle and the worst.

While cases are scored one slice of each one's labels is kept in memory (two bytes a pixel); only the three are written,
with the image below the labels, to `slices.npz` in OUTPUT_DIR.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d import files
from unet3d.errors import UserError, shown
from unet3d.workload import MODALITIES

if TYPE_CHECKING:
    from unet3d.brats.dataset import Case

FILE = "slices.npz"
SHOWN = ("flair", "t1ce")  # oedema is bright in the first, enhancing tumour in the second
PLACES = ("best", "median", "worst")
# Three cases of a slice have a few 10 KiB.
LARGEST_FILE, LARGEST_ARRAY, MOST_ARRAYS = 2**25, 2**22, 64
# What zipfile and numpy raise for a damaged .npz.
BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Labels:
    """A slice of a case, nnU-Net's labels uint8 [y, x] in the original space; `z` is its index."""

    z: int
    predicted: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Slice:
    """What the report draws of a case. `images`: uint8 [y, x] of each modality in SHOWN."""

    place: str
    name: str
    labels: Labels
    images: Mapping[str, np.ndarray]


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
            _, voxels = nifti.read(modality, path)
            if labels.z >= len(voxels) or voxels[labels.z].shape != labels.truth.shape:
                raise UserError(f"{modality} of {shown(name)} has changed since it was predicted")
            arrays[f"{place}_{modality}"] = _grey(voxels[labels.z])
    with files.whole_file(folder / FILE) as partial:
        np.savez_compressed(partial, **arrays)


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 of the same shape, the brightest half percent of the tissue white."""
    tissue = image[image > 0]
    white = float(np.percentile(tissue, 99.5)) if tissue.size else 1.0
    return np.clip(255 * image.astype(np.float64) / white, 0, 255).astype(np.uint8)


def load(folder: Path, scores: Mapping[str, Any]) -> list[Slice]:
    """The slices in `folder` that belong to these scores; none where the file is absent, damaged or of another run."""
    shown = []
    with contextlib.suppress(UserError, *BROKEN):
        content = _arrays(files.read_regular(folder / FILE, LARGEST_FILE, "pictures of cases"))
        for place in PLACES:
            if f"{place}_name" not in content:
                continue
            pictures = [content[f"{place}_{name}"] for name in ("predicted", "truth", *SHOWN)]
            if any(picture.ndim != 2 or not picture.size or picture.dtype != np.uint8 for picture in pictures):
                raise ValueError("no pictures")
            if len({picture.shape for picture in pictures}) > 1:
                raise ValueError("pictures of several sizes")
            labels = Labels(int(content[f"{place}_z"]), pictures[0], pictures[1])
            shown.append(Slice(place, str(content[f"{place}_name"]), labels, dict(zip(SHOWN, pictures[2:], strict=True))))
    return shown if all(case.name in scores for case in shown) else []


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, none larger than LARGEST_ARRAY, whatever its headers announce.

    Raises:
        BROKEN: where it is no such file.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if len(members) > MOST_ARRAYS or any(member.file_size > LARGEST_ARRAY for member in members):
            raise ValueError("more than a report shows")
        for member in members:
            data = archive.read(member)
            header = io.BytesIO(data)
            np.lib.format.read_magic(header)
            shape, _, dtype = np.lib.format.read_array_header_1_0(header)
            if math.prod(shape) * dtype.itemsize != len(data) - header.tell():
                raise ValueError("an array of another size than it announces")
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return arrays


def picture(case: Slice, modality: str, regions: Mapping[str, tuple[int, ...]], colours: Mapping[str, str]) -> bytes:
    """A WebP of the image, cropped to the head, with regions outlined: the prediction coloured, the truth white, dashed."""
    from matplotlib import patheffects
    from matplotlib.figure import Figure

    rows, columns = _head(next(iter(case.images.values())))
    image = case.images[modality][rows, columns]
    figure = Figure(figsize=(3.2, 3.2 * image.shape[0] / image.shape[1]), dpi=130, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    for region, labels in regions.items():
        for map_, colour, style, width in (
            (case.labels.predicted, colours[region], "solid", 1.8),
            (case.labels.truth, "white", "dashed", 1.0),
        ):
            mask = np.isin(map_[rows, columns], labels)
            if mask.any() and not mask.all():
                lines = axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width, linestyles=[style])
                lines.set_path_effects([patheffects.withStroke(linewidth=width + 1.2, foreground="black", alpha=0.6)])
    axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", facecolor="black", pil_kwargs={"quality": 86})
    return buffer.getvalue()


def _head(image: np.ndarray, margin: int = 6) -> tuple[slice, slice]:
    filled = np.argwhere(image > 0)
    if not len(filled):
        return slice(None), slice(None)
    low, high = np.maximum(filled.min(axis=0) - margin, 0), filled.max(axis=0) + margin + 1
    return slice(low[0], high[0]), slice(low[1], high[1])
