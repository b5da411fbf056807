"""PyTorch on CPU, CUDA and XPU: eager, traced or compiled, with autocast or a cast model, with or without IPEX."""

from __future__ import annotations

import contextlib
import queue
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unet3d.engines import labels as labels_of
from unet3d.engines import layout
from unet3d.engines.base import (
    CHANNELS_LAST,
    CONTIGUOUS,
    FAST,
    REFERENCE,
    Effective,
    Engine,
    EngineSettings,
    Finished,
    Profiled,
    Request,
)
from unet3d.engines.lanes import Lane
from unet3d.engines.pytorch import form, jit, profiler, refusals
from unet3d.engines.pytorch.pinning import Pinning
from unet3d.engines.pytorch.witness import Witness
from unet3d.engines.ring import Ring
from unet3d.errors import MismatchError
from unet3d.network import flops
from unet3d.network.cpu_ops import build

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from unet3d.engines.pytorch.jit import Runnable

CALLS_BEFORE_CAPTURE = 3


class TorchEngine(Engine["torch.Tensor", "torch.Tensor"]):
    """See `unet3d.engines.base.Engine`."""

    name = "torch"
    precisions = ("fp32", "fp16", "bf16", "int8")
    jits = ("none", "trace", "compile")
    has_ipex = True
    has_tune = True
    fast_layout = CHANNELS_LAST

    @classmethod
    def _refuse_precision(cls, precision: str) -> list[str]:
        return [f"PRECISION={precision} with ENGINE=torch is not possible; use {', '.join(cls.precisions)}"]

    @classmethod
    def refuse_settings(cls, asked: EngineSettings) -> list[str]:
        return [*super().refuse_settings(asked), *refusals.tuning(asked)]

    @classmethod
    def _refuse_on_machine(cls, request: Request) -> list[str]:
        return refusals.on_machine(request)

    @classmethod
    def begin(cls) -> None:
        """PyTorch's profiler complains on every run if its first use is on another thread than the main one."""
        profiler.begin()

    @classmethod
    def build(cls, request: Request) -> None:
        """Compile the CPU's operators: also nnU-Net's own network has its volumes staged and its labels made by them."""
        if request.device.is_host:
            build.status()

    def load(self, reference: torch.nn.Module) -> None:
        import torch

        start = perf_counter()
        self._torch, self._reference_class = torch, type(reference)
        self._dtype = form.storage_type(self.request.precision)
        device = self.request.device
        self._witness = Witness(ipex_packed=self.request.ipex and device.is_host)
        self._pinning = Pinning(self.request.streams) if device.is_host else None
        self._threads = max(1, self.request.threads // self.request.streams)
        self._take_threads(self._threads)
        if self.request.profile:
            profiler.begin(None if device.is_host else device.kind)
            self._convolutions = flops.convolutions(reference)
        self._form = form.choose(self.request, reference)
        self.warnings += self._form.warnings
        self.load_seconds |= self._form.load_seconds
        network = self._form.module.to(device.torch_device).eval()
        if not self.request.amp and not self._form.casts_itself:
            network = network.to(self._dtype)
        if not self._form.casts_itself:
            network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # PyTorch's types lack it
        if self.request.ipex:
            import intel_extension_for_pytorch as ipex

            # Its backend of torch.compile packs weights itself; layers packed before break the graph at each of them.
            compiled = self.request.jit == "compile" and self._form.compile_backend == form.IPEX_ON_CPU
            network = ipex.optimize(network, dtype=self._dtype, inplace=True, weights_prepack=not compiled)
            if compiled:
                import torch._inductor.config

                # Weights are constants then, which the backend packs. Without it torch 2.8, the last one that IPEX has,
                # writes over its heap in fp32: "free(): invalid next size".
                torch._inductor.config.freezing = True
        self._module = network
        self._run: Runnable | None = None
        self._no_graph = self._why_no_graph()
        self._lanes = [Lane(device, own_stream=self.request.streams > 1) for _ in range(self.request.streams)]
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._ring = Ring(device, self.request.streams, self._threads)
        self.load_seconds["build"] = perf_counter() - start - sum(self._form.load_seconds.values())

    def _why_no_graph(self) -> str | None:
        """Why launches are not captured as a graph; None where they are."""
        if self.request.device.is_host:
            return "a CPU has none"
        if self.request.jit == "none":
            return "JIT=none launches each kernel by itself"
        if self.request.ipex:
            return "not with IPEX"
        if not self.request.device.supports_graphs:
            return f"torch {self._torch.__version__} has none for {self.request.device.kind}"
        return None

    def _take_threads(self, count: int) -> None:
        """What PyTorch computes on this thread, it computes with so many: a stream's calls and stagings have a share each."""
        if self._torch.get_num_threads() != count:
            self._torch.set_num_threads(count)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.request.amp and self.request.precision != "fp32":
            return self._torch.autocast(self.request.device.kind, dtype=self._dtype)
        return contextlib.nullcontext()

    @property
    def depth(self) -> int:
        return self._ring.depth

    def stage(self, volumes: NDArray[np.float32], slot: int | None = None) -> torch.Tensor:
        return self._ring.stage(volumes, self._dtype, slot, self.request.input_on_device)

    def start(self, staged: torch.Tensor, slot: int) -> None:
        captured = self._lanes[0].graphs.get(tuple(staged.shape))
        with self._torch.inference_mode(), self._autocast():
            run = captured.replay if captured else self._call
            self._ring.start(slot, staged, run, self.request.input_on_device)

    def finish(self, slot: int) -> Finished:
        return self._ring.finish(slot)

    def infer(self, staged: torch.Tensor) -> torch.Tensor:
        """See `Engine.infer`. With a graph and one stream the logits are those of the latest call only."""
        if self._pinning is not None:
            self._pinning.pin()
        self._take_threads(self._threads)
        lane = self._free.get()
        try:
            return self._infer_on(lane, staged)
        finally:
            self._free.put(lane)

    def _infer_on(self, lane: Lane, staged: torch.Tensor, by_graph: bool = True) -> torch.Tensor:
        with lane.running(), self._torch.inference_mode(), self._autocast():
            captured = lane.graphs.get(tuple(staged.shape)) if by_graph else None
            if captured is None:
                return self._call(self.request.device.upload(staged))
            logits = captured.replay(staged)
            return logits.clone() if len(self._lanes) > 1 else logits

    def _call(self, there: torch.Tensor) -> torch.Tensor:
        """Logits of volumes that are where the network is, without a graph."""
        assert self._run is not None, "made by the first call's comparison or compilation"
        return self._run(layout.innermost(there))

    def _capture(self, lane: Lane, staged: torch.Tensor) -> None:
        """Record a lane's graph for this shape; where that fails the run goes on without, and says so."""
        if self._no_graph is not None:
            return
        # Kernels are built, and the fastest ones chosen, by calls before the recording.
        for _ in range(CALLS_BEFORE_CAPTURE):
            self._infer_on(lane, staged)
        try:
            with self._torch.inference_mode(), self._autocast():
                lane.capture(self._call, staged)
        except RuntimeError as error:
            if self.request.device.is_out_of_memory(error):
                raise
            self._no_graph = f"the capture failed: {str(error).splitlines()[0]}"
            self.warnings.append(("no-graph", f"kernels are launched one by one, {self._no_graph}"))

    def compile(self, staged: torch.Tensor) -> None:
        start = perf_counter()
        self._ensure_jit(staged)
        for lane in self._lanes:
            self._capture(lane, staged)
            output = self._infer_on(lane, staged)
        self.labels(output)
        if self.depth > 1:
            self._ring.fill(tuple(staged.shape), self._dtype, self.request.input_on_device, self.start)
        self.load_seconds["compile"] = perf_counter() - start

    def compare(self, volumes: NDArray[np.float32]) -> NDArray[np.float32]:
        staged = self.stage(volumes)
        self._ensure_jit(staged)
        lane = self._lanes[0]
        self._infer_on(lane, staged)
        # A graph's replay shows no operators: they are seen while it is recorded.
        with self._witness.watching():
            self._capture(lane, staged)
            output = self._infer_on(lane, staged)
        # The last layer keeps the layout of the one before it, and so on up: one layer that leaves it shows here.
        blocked = output.is_contiguous(memory_format=self._torch.channels_last_3d) and not output.is_contiguous()
        self._layout = CHANNELS_LAST if blocked else CONTIGUOUS
        logits = self.logits(output)
        if tuple(staged.shape) != self.request.shape:
            lane.graphs.pop(tuple(staged.shape), None)
            del output
            self._release()
        return logits

    def _release(self) -> None:
        if self._form.release is not None:
            self._form.release()

    def _ensure_jit(self, staged: torch.Tensor) -> None:
        """Make the callable that is compared with fp32, warmed up and timed, at the first call."""
        if self._run is None:
            backend = self._form.compile_backend
            self._run = jit.make_runnable(self._module, self.request.jit, backend, staged, self._autocast())

    def logits(self, output: torch.Tensor) -> NDArray[np.float32]:
        # At once: a step for the type and one for the layout would hold a volume of logits each.
        return output.to("cpu", self._torch.float32, memory_format=self._torch.contiguous_format).numpy()

    def labels(self, output: torch.Tensor) -> NDArray[np.uint8]:
        return labels_of.most_likely(output).cpu().numpy()

    def operators(self, staged: torch.Tensor) -> Profiled:
        from unet3d.engines.pytorch import operators
        from unet3d.engines.pytorch.layers import Watch

        device = self.request.device

        def watching(mark: Callable[[int], Any] | None) -> Watch:
            return Watch(self._module, self._convolutions, staged, mark)

        if device.is_host:
            profiled = operators.on_host(watching, lambda: self.infer(staged), self.request.jit == "compile")
        else:
            profiled = operators.on_device(
                device.kind,
                watching,
                lambda: self._infer_on(self._lanes[0], staged, by_graph=False),
                lambda: self.infer(staged),
                device.is_out_of_memory,
            )
        executed = self._form.executed(tuple(staged.shape)) if self._form.executed else ()
        return replace(profiled, operators=operators.with_products(profiled.operators, executed))

    def executed(self) -> dict[str, float] | None:
        return dict(flops.by_type(self._form.executed(self.request.shape))) if self._form.executed else None

    def effective(self) -> Effective:
        torch = self._torch
        if not self._witness.observed:
            raise MismatchError(
                "torch: no convolution was seen while the network ran, so its data type is unknown; "
                "please report this with results.json"
            )
        ran_as = jit.ran_as(self._run, self._module)
        parameter = next(self._module.parameters())
        details: dict[str, object] = {
            "class": type(self._module).__name__,
            "convolutions": {dtype: sorted(names) for dtype, names in self._witness.observed.items()},
            "parameter_dtype": str(parameter.dtype).removeprefix("torch."),
            "operators": self._form.operators,
            "intra_op_threads": torch.get_num_threads(),
        }
        if self.request.device.is_host:
            details["staging"] = "one pass of ours" if build.has_passes(self._dtype) else "PyTorch's copy"
        else:
            details["graph"] = self._graph_name() if self._no_graph is None else f"none: {self._no_graph}"
            details["input_on_device"] = self.request.input_on_device
            details["calls_under_way"] = self.depth
        if len(shares := self._witness.shares()) > 1:
            details["precision_shares"] = {name: round(share, 3) for name, share in shares.items()}
        if self._form.convolutions:
            details["convolution_forms"] = self._form.convolutions()
        if self._form.chosen_by:
            details["convolution_forms_from"] = self._form.chosen_by
        if ran_as == "compile":
            details["compile_backend"] = self._form.compile_backend
        return Effective(
            engine=f"torch {torch.__version__}",
            device=str(parameter.device),
            precision=self._witness.precision(),
            jit=ran_as,
            layout=self._layout,
            network=REFERENCE if type(self._module) is self._reference_class else FAST,
            # A form of ours holds its weights in the precision, whatever AMP says.
            amp=None if self._form.casts_itself else self.request.amp,
            ipex=self.request.ipex,
            details=details,
        )

    def _graph_name(self) -> str:
        graph = self.request.device.graph_class()
        return "none" if graph is None else graph.__name__

    def close(self) -> None:
        for lane in self._lanes:
            lane.graphs.clear()
        self._ring.clear()
        self._release()
