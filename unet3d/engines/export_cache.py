"""A folder for each export, named by the hash of everything that decides its content: never stale, never shared."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from unet3d import caches
from unet3d.files import whole_folder, write_atomically

if TYPE_CHECKING:
    import numpy as np
    import torch


SOURCES = (".py", ".cpp", ".h", ".cu", ".cuh")
SUMS = "sha256.json"  # of every other file of an export


def parameters_hash(network: torch.nn.Module) -> str:
    """SHA-256 over names, data types, shapes and bytes of a network's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def volume_hash(volume: np.ndarray) -> str:
    """SHA-256 of a volume's shape and bytes."""
    return hashlib.sha256(repr(volume.shape).encode() + volume.tobytes()).hexdigest()


def sources_hash(*modules: ModuleType) -> str:
    """SHA-256 over the source of the modules that make an export: a change of ours makes a new one.

    Of a package it is all sources in its folder, of kernels in other languages too.
    """
    digest = hashlib.sha256()
    for module in modules:
        assert module.__file__ is not None
        path = Path(module.__file__)
        whole_package = path.name == "__init__.py"
        for source in sorted(path.parent.iterdir()) if whole_package else [path]:
            if source.suffix in SOURCES:
                digest.update(source.read_bytes())
    return digest.hexdigest()


def versions(packages: Iterable[str]) -> list[str]:
    """`package==version` of installed packages, whose changes can change an export."""
    return [f"{package}=={importlib.metadata.version(package)}" for package in packages]


def get_or_make(folder: Path, ingredients: Iterable[str], make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an export made from `ingredients`, and whether it was there already.

    folder: a kind's, of `unet3d.caches.KINDS`, in a cache folder. It is held: nobody clears it while this process lives.
    `make` gets an empty folder to fill; it gets its final name only when it is complete, so that an interrupted
    or concurrent export leaves no half of one. One whose files are not what was written is made again.
    """
    caches.hold(folder.parent, folder.name)
    key = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:32]
    final = Path(folder) / key
    if whole(final):
        return final, True
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)  # where it is damaged
    with whole_folder(final) as draft:
        make(draft)
        write_atomically(draft / SUMS, json.dumps(_sums(draft)))
    return final, False


def whole(folder: Path) -> bool:
    """Whether a folder is an export whose files have the content that was written."""
    try:
        return bool(json.loads((folder / SUMS).read_text(encoding="utf-8")) == _sums(folder))
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of an export by its path in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SUMS:
            with open(path, "rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
