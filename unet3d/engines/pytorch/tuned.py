"""Where the forms of the GPU's convolutions come from: measured now, kept from an earlier measurement on such a card, or from
what was measured on its architecture. What is measured is kept in the cache, a file for each card, software and network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unet3d import caches, json_files
from unet3d.engines import export_cache
from unet3d.engines.base import Request
from unet3d.errors import UserError, shown
from unet3d.network import cuda_ops, gpu, gpu_forms, gpu_tuning, triton_ops
from unet3d.network.cuda_ops import kernels
from unet3d.network.gpu_forms import Choice, Geometry, candidates
from unet3d.network.gpu_tuning import Timed

if TYPE_CHECKING:
    import torch

LIMIT = 2**20  # bytes of a file; one of the whole network has some 10 KiB
Json = dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The choice, what has to be said about it, and the seconds that it took."""

    choice: Choice
    warnings: list[tuple[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def choose(request: Request, geometries: Mapping[str, Geometry], dtype: torch.dtype) -> Chosen:
    """How the forms of these convolutions are chosen for a request on a GPU. dtype: of the tensors.

    Raises:
        UserError: when the library cannot compute a convolution that is to be timed.
    """
    architecture = request.device.properties().architecture
    cuda = kernels.why_not(architecture) is None
    by_table = gpu_forms.by_architecture(architecture, cuda)
    if request.precision == "fp32":
        return Chosen(Choice(by_table.choose, "in fp32 every product is the library's"))
    todo = gpu_tuning.distinct(geometries.values(), cuda)
    identity = _identity(request, cuda)
    caches.hold(request.cache_dir, caches.TUNED)
    path = request.cache_dir / caches.KINDS[caches.TUNED].folder / f"{_key(identity, todo)}.json"
    if request.tune:
        return _tune(request, geometries, dtype, cuda, identity, path)
    warnings: list[tuple[str, str]] = []
    if os.path.lexists(path):
        try:
            day, found = _read(path, identity, todo, cuda)
            return Chosen(_choice(found, f"tuned on this card, {day}"))
        except UserError as error:
            instead = f"used instead: {by_table.source}. Time the forms anew with --tune."
            warnings.append(("tuning-not-used", f"{_without_remedy(error)}; {instead}"))
    if architecture not in gpu_forms.MEASURED:
        warnings.append(
            (
                "unmeasured-gpu",
                f"nobody has measured which form of each convolution is fastest on {architecture or 'this kind of GPU'}: the "
                "library computes them, but for the first. Time them here once with --tune; later runs on this card use that.",
            )
        )
    return Chosen(by_table, warnings)


def _tune(
    request: Request, geometries: Mapping[str, Geometry], dtype: torch.dtype, cuda: bool, identity: Json, path: Path
) -> Chosen:
    start = perf_counter()
    found = gpu_tuning.tune(geometries.values(), dtype, request.device, cuda)
    seconds, day, warnings = {"tune": perf_counter() - start}, datetime.now(UTC).date(), _left_out(geometries, found)
    document = {
        "of": identity,
        "date": day.isoformat(),
        "convolutions": [{"geometry": dataclasses.asdict(g), **dataclasses.asdict(timed)} for g, timed in found.items()],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        json_files.write(path, document)
    except (OSError, UserError) as error:
        why = _without_remedy(error) if isinstance(error, UserError) else f"{shown(path.parent)}: {error.strerror}"
        warnings.append(
            ("tuning-not-kept", f"what was timed serves this run only: {why}; set XDG_CACHE_HOME to another folder.")
        )
    return Chosen(_choice({g: timed.ms for g, timed in found.items()}, f"tuned on this card, {day}"), warnings, seconds)


def _choice(found: Mapping[Geometry, Mapping[str, float]], source: str) -> Choice:
    chosen = {geometry: gpu_tuning.fastest(geometry, ms) for geometry, ms in found.items()}
    return Choice(lambda geometry: chosen.get(geometry, gpu_forms.LIBRARY), source)


def _left_out(geometries: Mapping[str, Geometry], found: Mapping[Geometry, Timed]) -> list[tuple[str, str]]:
    """A warning that names each form that was left out, with its reason and the first layer for which it was."""
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, geometry in geometries.items():
        for form, reason in (found[geometry].left_out if geometry in found else {}).items():
            where[form, reason].append(name)
    told = [f"{form} in {', '.join(names)}: {shown(reason)}" for (form, reason), names in where.items()]
    return [("forms-left-out", f"forms that were not timed: {'; '.join(told)}.")] if told else []


def _identity(request: Request, cuda: bool) -> Json:
    """All but the convolutions themselves that decides how fast a form is."""
    import torch
    import triton

    told = request.device.properties()
    return {
        "card": told.name,
        "architecture": told.architecture,
        "compute_units": told.compute_units,
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "kernels": export_cache.sources_hash(gpu, gpu_forms, gpu_tuning, cuda_ops, triton_ops),
        "cuda_kernels": cuda,
        "precision": request.precision,
    }


def _key(identity: Json, todo: Sequence[Geometry]) -> str:
    ingredients = [identity, [dataclasses.asdict(geometry) for geometry in todo]]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path, identity: Json, todo: Sequence[Geometry], cuda: bool) -> tuple[date, dict[Geometry, dict[str, float]]]:
    """The day of a measurement, and milliseconds by form of each convolution.

    Raises:
        UserError: when the file is broken, or of something else than its name says.
    """
    document = json_files.read(path, LIMIT, "tuned forms")
    try:
        if document["of"] != identity:
            raise ValueError("it is of another card or other software")
        rows = document["convolutions"]
        # As JSON has them: tuples are lists there.
        if [row["geometry"] for row in rows] != json.loads(json.dumps([dataclasses.asdict(geometry) for geometry in todo])):
            raise ValueError("it is of other convolutions")
        found = {geometry: _times(row["ms"], candidates(geometry, cuda)) for geometry, row in zip(todo, rows, strict=True)}
        return date.fromisoformat(document["date"]), found
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = str(error) if type(error) is ValueError else "a part of it is missing or of another kind"
        raise UserError(f"tuned forms {shown(path)}: cannot be used, {shown(why)}; name another file") from None


def _without_remedy(error: UserError) -> str:
    """What is wrong with a file; what to do is another thing for one of the cache."""
    return str(error).rpartition(";")[0]


def _times(told: Json, able: Sequence[str]) -> dict[str, float]:
    if not told or not set(told) <= set(able):
        raise ValueError(f"a convolution has times of {', '.join(told) or 'no form'}, not of {', '.join(able)}")
    for ms in told.values():
        if type(ms) is not float or not (math.isfinite(ms) and ms > 0):  # a whole number may be beyond any float
            raise ValueError(f"{shown(ms, 40)} is no time of a form")
    return dict(told)
