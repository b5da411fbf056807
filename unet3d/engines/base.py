"""What every engine offers: the same verbs, whatever software runs the network.

The runner calls them in this order::

    registry.refuse_settings(asked)        # what no machine can run, before a device is looked at
    engine = registry.create(request)      # refuses what this machine cannot run
    engine.load(reference)                 # builds, exports or quantises the network; engine.load_seconds
    engine.compare(volume)                 # float32 logits of a small volume, for the comparison with fp32
    engine.compile(staged)                 # all work that belongs to the real shape, with a first inference
    output = engine.infer(staged)          # the timed region: input transfer, network, synchronisation
    labels = engine.labels(output)         # most likely class of each voxel, outside the timed region
    engine.effective()                     # what really ran, read back from the running software

Where a device works beside the host, `depth` calls may be under way, each in a slot from 0 to depth - 1::

    staged = engine.stage(volumes, slot)   # into the slot's memory, in any thread
    engine.start(staged, slot)             # returns at once; calls run in the order of their starts
    finished = engine.finish(slot)         # waits for the labels; the slot is free when they were used
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from unet3d import caches
from unet3d.workload import input_shape

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from unet3d.devices.base import Device

# Layouts as `Effective` calls them; an engine with a blocked layout uses its own name.
CHANNELS_LAST, CONTIGUOUS = "channels_last_3d", "contiguous"
# Forms of the network as `Effective` and NETWORK call them: one of ours for inference, or nnU-Net's own.
FAST, REFERENCE = "fast", "reference"
# Intel Extension for PyTorch has no other.
IPEX_PLATFORMS = ("Flex", "Max", "CPU")

# Said by every engine that quantises.
NEEDS_CALIBRATION = (
    "PRECISION=int8 needs volumes to calibrate with, from outside the validated fold; set DATASET_DIR or "
    "PREPROCESSED_DIR, or use PRECISION=bf16 or fp32"
)

# What an engine hands from `stage` to `infer`, and from there to `logits` and `labels`.
Staged = TypeVar("Staged")
Output = TypeVar("Output")


@dataclass(frozen=True)
class EngineSettings:
    """What the user has asked of an engine, before any machine is looked at; None where it was left open."""

    engine: str
    precision: str | None = None
    jit: str | None = None
    ipex: bool | None = None
    platform: str | None = None
    network: str | None = None
    tune: bool = False
    onnx_provider: str | None = None


@dataclass(frozen=True)
class Request:
    """What an engine is asked to run; every field is compared with what ran."""

    engine: str
    device: Device
    precision: str  # of unet3d.config.precisions
    jit: str = "none"  # none, trace or compile; engines other than torch run with none
    amp: bool = True
    ipex: bool = False
    network: str = "fast"  # fast or reference
    tune: bool = False  # time the forms of the convolutions before anything else
    onnx_provider: str | None = None  # of unet3d.config.names.ONNX_PROVIDERS; for onnxruntime on a GPU
    shape: tuple[int, ...] = input_shape()  # N, modality, z, y, x
    streams: int = 1
    threads: int = 1
    input_on_device: bool = False
    cache_dir: Path = field(default_factory=caches.folder)
    # Preprocessed volumes float32 [4, z, y, x] from outside the validated fold, yielded one by one; int8 only.
    calibration: Callable[[], Iterable[NDArray[np.float32]]] | None = None
    calibration_source: str = "none"
    profile: bool = False  # `operators` will be asked for

    def asked(self) -> EngineSettings:
        """The part of it that needs no machine."""
        platform = self.device.platform()
        return EngineSettings(
            self.engine, self.precision, self.jit, self.ipex, platform, self.network, self.tune, self.onnx_provider
        )


@dataclass(frozen=True)
class Operator:
    """One operator of one inference, or one kernel of it. FLOP: convolutions only, a multiplication and an addition are
    two. Bytes: the least that it reads and writes. Kernels of one operator share its FLOP and bytes by their time."""

    name: str
    shapes: list[list[int]]  # of its inputs
    ms: float
    flop: int  # as a direct convolution
    bytes: int
    _: KW_ONLY
    # Of the network, as our forms name them (encoder.0.0, upsamplings.0, decoder.0.0, head), "input" or "output" for what
    # moves volumes; None where the engine does not tell, or it is not known.
    layer: str | None = None
    kernel: str | None = None  # on a GPU
    products: str | None = None  # data type that it really multiplies, of PRECISIONS; None: the request's precision
    executed_flop: int | None = None  # of the products that it really computes; None: those of `flop`


@dataclass(frozen=True)
class Profiled:
    """The operators of one inference in order of execution, what they add up to with the rest, and what is doubtful."""

    operators: list[Operator]
    ms: float  # of the whole
    rest: str = "outside operators"  # what the difference between them and the whole is
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effective:
    """What ran, as the running software itself reports it."""

    engine: str  # name and version
    device: str  # as PyTorch names it, whatever the engine: cpu, cuda:0, xpu:0
    precision: str  # data type of the convolutions' inputs
    jit: str
    layout: str  # CHANNELS_LAST, CONTIGUOUS, or the engine's own name for its blocked layout
    network: str  # FAST or REFERENCE
    amp: bool | None = None
    ipex: bool = False
    details: Mapping[str, object] = field(default_factory=dict)


class Finished(ABC):
    """A call that was started with `start` and has come to its end; its times are the device's own.

    labels: uint8 [N, z, y, x] in nnU-Net's labels, in the slot's memory. latency: seconds of the input transfer and of the
    network, without waiting for other calls. post: seconds from complete logits to labels on the host.
    """

    labels: NDArray[np.uint8]
    latency: float
    post: float

    @abstractmethod
    def seconds_since(self, earlier: Self) -> float:
        """Seconds between the ends of two calls, by the device's clock."""


class Engine(ABC, Generic[Staged, Output]):
    """One way of running the network; a package an engine, heavy imports inside `load`."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]  # that it runs on some machine
    jits: ClassVar[tuple[str, ...]] = ("none",)
    has_ipex: ClassVar[bool] = False
    has_tune: ClassVar[bool] = False
    onnx_platforms: ClassVar[tuple[str, ...]] = ()  # on which it has the choice of ONNX_PROVIDER
    fast_layout: ClassVar[str | None] = None  # of the logits of its fast form, where only one is right

    def __init__(self, request: Request):
        self.request = request
        self.load_seconds: dict[str, float] = {}  # export, quantisation, compilation: each apart
        self.warnings: list[tuple[str, str]] = []  # (name, what happened and the remedy)

    @classmethod
    def refuse_settings(cls, asked: EngineSettings) -> list[str]:
        """One line for each reason why no machine can run these settings, each with its remedy; imports nothing heavy."""
        reasons = []
        if asked.precision is not None and asked.precision not in cls.precisions:
            reasons += cls._refuse_precision(asked.precision)
        if asked.jit is not None and asked.jit not in cls.jits:
            reasons.append(
                f"JIT={asked.jit} with ENGINE={cls.name} is not possible; JIT is PyTorch's, use JIT=none or ENGINE=torch"
            )
        if asked.ipex and not cls.has_ipex:
            reasons.append(f"IPEX=yes with ENGINE={cls.name} is not possible; use IPEX=no or ENGINE=torch")
        if asked.tune and not cls.has_tune:
            reasons.append(
                f"TUNE=yes with ENGINE={cls.name} is not possible, it is for forms of our own; use TUNE=no or ENGINE=torch"
            )
        if asked.ipex and asked.platform is not None and asked.platform not in IPEX_PLATFORMS:
            reasons.append(f"IPEX=yes with PLATFORM={asked.platform} is not possible; it is for Flex, Max and CPU, use IPEX=no")
        if asked.onnx_provider is not None:
            reasons += cls._refuse_onnx_provider(asked)
        return reasons

    @classmethod
    def _refuse_onnx_provider(cls, asked: EngineSettings) -> list[str]:
        if not cls.onnx_platforms:
            where, remedy = f"ENGINE={cls.name}", "leave it out or use ENGINE=onnxruntime"
        elif asked.platform is not None and asked.platform not in cls.onnx_platforms:
            where, remedy = f"PLATFORM={asked.platform}", f"leave it out or use PLATFORM={' or '.join(cls.onnx_platforms)}"
        else:
            return []
        return [f"ONNX_PROVIDER={asked.onnx_provider} with {where} is not possible; {remedy}"]

    @classmethod
    def precisions_on(cls, platform: str) -> tuple[str, ...]:
        """Those of `precisions` that it has on this platform, whatever the machine."""
        return cls.precisions

    @classmethod
    @abstractmethod
    def _refuse_precision(cls, precision: str) -> list[str]:
        """Why it does not run a precision that is not among its own, and what to use instead."""

    @classmethod
    def refuse(cls, request: Request) -> list[str]:
        """One line for each reason why this machine cannot run this request, each with its remedy; those of
        `refuse_settings` come first. An engine may load what it must ask."""
        return [*cls.refuse_settings(request.asked()), *cls._refuse_on_machine(request)]

    @classmethod
    @abstractmethod
    def _refuse_on_machine(cls, request: Request) -> list[str]:
        """What `refuse_settings` cannot say: packages, the device, the CPU's instructions, the request's other fields."""

    @classmethod
    def begin(cls) -> None:
        """Work that must be done once on the main thread, before a run begins on another."""

    @classmethod
    def build(cls, request: Request) -> None:
        """Make on this machine what several ranks would otherwise make at the same time."""

    @abstractmethod
    def load(self, reference: torch.nn.Module) -> None:
        """Build the network to run from nnU-Net's own fp32 module on the CPU."""

    @property
    def depth(self) -> int:
        """How many calls `start` takes before the first must be finished; 1 where calls are made by `infer` alone."""
        return 1

    @abstractmethod
    def stage(self, volumes: NDArray[np.float32], slot: int | None = None) -> Staged:
        """Host work before the timed region: float32 [N, 4, z, y, x] made ready for `infer` or `start`.

        slot: whose memory is used again, so that what was staged there before is lost; None: memory of its own.
        """

    @abstractmethod
    def compile(self, staged: Staged) -> None:
        """Everything that belongs to the staged shape, ending with one finished inference."""

    @abstractmethod
    def infer(self, staged: Staged) -> Output:
        """Input transfer, network and synchronisation: when it returns the logits are complete.

        May be called from as many threads at a time as the request has streams.
        """

    def start(self, staged: Staged, slot: int) -> None:
        """Begin a call and its labels without waiting, behind those that were started before; by one thread.

        Only with a `depth` of more than 1, and for a slot whose call was finished. An error of the device may be raised
        by `finish`.
        """
        raise NotImplementedError(f"{self.name} finishes each call before the next")

    def finish(self, slot: int) -> Finished:
        """Wait for the slot's call; in the order of the starts, in any one thread."""
        raise NotImplementedError(f"{self.name} finishes each call before the next")

    @abstractmethod
    def logits(self, output: Output) -> NDArray[np.float32]:
        """Float32 logits [N, 4, z, y, x] on the host."""

    def labels(self, output: Output) -> NDArray[np.uint8]:
        """Most likely class of each voxel: uint8 [N, z, y, x] on the host, in nnU-Net's labels."""
        import torch

        from unet3d.engines import labels

        # The calling thread is idle until the next call: its share of the cores is free for this.
        threads = max(1, self.request.threads // self.request.streams)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        most_likely: NDArray[np.uint8] = labels.most_likely(torch.from_numpy(self.logits(output))).numpy()
        return most_likely

    def compare(self, volumes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 logits of volumes of another shape than the request's, by the same code path."""
        return self.logits(self.infer(self.stage(volumes)))

    @abstractmethod
    def operators(self, staged: Staged) -> Profiled:
        """One more inference of the object that was timed. The last call of all, and only for a request with `profile`."""

    def executed(self) -> dict[str, float] | None:
        """FLOP of the products that one inference of the request's shape really computes, by their data type, of PRECISIONS.

        None: those of the network's convolutions, in the request's precision.
        """
        return None

    def own_device_memory(self) -> int:
        """Bytes on the device that its software holds beside PyTorch's allocator."""
        return 0

    @abstractmethod
    def effective(self) -> Effective:
        """What ran, read back from the software after `compare` or `compile`."""

    def close(self) -> None:
        """Give back device memory and threads."""
