"""A folder for each export, named by the hash of everything that decides its content: never stale, never shared."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from unet3d import caches
from unet3d.files import whole_folder

if TYPE_CHECKING:
    import numpy as np
    import torch


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
    """SHA-256 over the source of the modules that make an export: a change of ours makes a new one."""
    digest = hashlib.sha256()
    for module in modules:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def versions(packages: Iterable[str]) -> list[str]:
    """`package==version` of installed packages, whose changes can change an export."""
    return [f"{package}=={importlib.metadata.version(package)}" for package in packages]


def get_or_make(folder: Path, ingredients: Iterable[str], make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder of an export made from `ingredients`, and whether it was there already.

    folder: a kind's, of `unet3d.caches.KINDS`, in a cache folder. It is held: nobody clears it while this process lives.
    `make` gets an empty folder to fill; it gets its final name only when it is complete, so that an interrupted
    or concurrent export leaves no half of one.
    """
    caches.hold(folder.parent, folder.name)
    key = hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:32]
    final = Path(folder) / key
    if final.is_dir():
        return final, True
    final.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(final) as draft:
        make(draft)
    return final, False
