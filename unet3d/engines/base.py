"""What every engine offers: the same verbs, whatever software runs the network.

The runner calls them in this order::

    engine = registry.create(request)       # refuses what cannot run, before anything heavy is imported
    engine.load(reference)                 # builds, exports or quantises the network; engine.load_seconds
    engine.compare(volume)                 # float32 logits of a small volume, for the check against fp32
    engine.compile(staged)                 # all work that belongs to the real shape, with a first inference
    output = engine.infer(staged)          # the timed region: input transfer, network, synchronisation
    labels = engine.labels(output)         # argmax on the host, outside the timed region
    engine.effective()                     # what really ran, read back from the running software
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    from unet3d.devices.base import Device


@dataclass(frozen=True)
class Request:
    """What an engine is asked to run; every field is compared with what ran."""

    engine: str
    device: Device
    precision: str  # fp32, fp16, bf16 or int8
    jit: str = "none"  # none, trace or compile; engines other than torch run with none
    amp: bool = True
    ipex: bool = False
    network: str = "fast"  # fast or reference
    shape: tuple[int, int, int, int, int] = (1, 4, 224, 224, 160)  # N, modality, z, y, x
    streams: int = 1
    threads: int = 1
    input_on_device: bool = False
    cache_dir: Path = field(default_factory=lambda: Path.home() / ".cache" / "unet3d")
    # Preprocessed volumes float32 [4, z, y, x] from outside the validated fold, yielded one by one; int8 only.
    calibration: Callable[[], Any] | None = None
    calibration_source: str = "none"
    profile: bool = False  # `operators` will be asked for


@dataclass(frozen=True)
class Operator:
    """One operator of one inference. FLOP: convolutions only, a multiplication and an addition are two. Bytes: the least
    that it reads and writes."""

    name: str
    shapes: list[list[int]]  # of its inputs
    ms: float
    flop: int
    bytes: int


@dataclass(frozen=True)
class Effective:
    """What ran, as the running software itself reports it."""

    engine: str
    device: str
    precision: str  # data type of the convolutions' inputs
    jit: str
    layout: str  # channels_last_3d, contiguous, or the engine's own name for its blocked layout
    network: str
    amp: bool | None = None
    ipex: bool = False
    details: dict[str, Any] = field(default_factory=dict)


class Engine(ABC):
    """One way of running the network; a file an engine, heavy imports inside `load`."""

    name: str

    def __init__(self, request: Request):
        self.request = request
        self.load_seconds: dict[str, float] = {}  # export, quantisation, compilation: each apart
        self.warnings: list[tuple[str, str]] = []  # (name, what happened and the remedy)

    @classmethod
    @abstractmethod
    def refuse(cls, request: Request) -> list[str]:
        """One line for each reason why this request cannot run, each with its remedy; imports nothing heavy."""

    @abstractmethod
    def load(self, reference: torch.nn.Module) -> None:
        """Build the network to run from nnU-Net's own fp32 module on the CPU."""

    @abstractmethod
    def stage(self, volumes: np.ndarray) -> Any:
        """Host work before the timed region: float32 [N, 4, z, y, x] made ready for `infer`."""

    @abstractmethod
    def compile(self, staged: Any) -> None:
        """Everything that belongs to the staged shape, ending with one finished inference."""

    @abstractmethod
    def infer(self, staged: Any) -> Any:
        """Input transfer, network and synchronisation: when it returns the logits are complete.

        May be called from as many threads at a time as the request has streams.
        """

    @abstractmethod
    def logits(self, output: Any) -> np.ndarray:
        """Float32 logits [N, 4, z, y, x] on the host."""

    def labels(self, output: Any) -> np.ndarray:
        """Most likely class of each voxel: uint8 [N, z, y, x] on the host, in nnU-Net's labels."""
        return self.logits(output).argmax(axis=1).astype("uint8")

    def compare(self, volumes: np.ndarray) -> np.ndarray:
        """Float32 logits of volumes of another shape than the request's, by the same code path."""
        return self.logits(self.infer(self.stage(volumes)))

    @abstractmethod
    def operators(self, staged: Any) -> tuple[list[Operator], float]:
        """One more inference of the object that was timed: its operators in order of execution, and milliseconds of the
        whole. The last call of all, and only for a request with `profile`."""

    @abstractmethod
    def effective(self) -> Effective:
        """What ran, read back from the software after `compare` or `compile`."""

    def close(self) -> None:
        """Give back device memory and threads."""
