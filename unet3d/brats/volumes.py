"""Where the volumes of a run come from: seeded noise, or preprocessed cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from unet3d.workload import input_shape

if TYPE_CHECKING:
    from unet3d.brats.preprocessing import Store


class Volumes(Protocol):
    """Batches of a run, by the number of the call."""

    def batch(self, index: int) -> np.ndarray:
        """Float32 [N, modality, z, y, x]."""
        ...

    def cases(self, index: int) -> tuple[str, ...]:
        """Names of the batch's cases."""
        ...


class RandomVolumes:
    """Seeded standard normal noise, as z-scored modalities are; the same batch serves every call."""

    def __init__(self, batch_size: int, shape: tuple[int, int, int], seed: int):
        generator = np.random.default_rng(seed)
        self._batch = generator.standard_normal(input_shape(batch_size, shape), dtype=np.float32)

    def batch(self, index: int) -> np.ndarray:
        """Float32 [N, 4, z, y, x]."""
        return self._batch

    def cases(self, index: int) -> tuple[str, ...]:
        """Random volumes have no names."""
        return ()


class CaseVolumes:
    """Preprocessed cases, read from the store at every call, batch after batch and round again."""

    def __init__(self, store: Store, names: Sequence[str], batch_size: int):
        self._store, self._names, self._batch_size = store, list(names), batch_size

    def batch(self, index: int) -> np.ndarray:
        """Float32 [N, 4, z, y, x]: cases index*N to index*N + N - 1, counted round the list."""
        volumes = [self._store.load(name).array for name in self.cases(index)]
        return volumes[0][None] if len(volumes) == 1 else np.stack(volumes)

    def cases(self, index: int) -> tuple[str, ...]:
        """Names of the batch's cases."""
        first = index * self._batch_size
        return tuple(self._names[(first + i) % len(self._names)] for i in range(self._batch_size))
