"""ONNX Runtime: nnU-Net's own graph with the optimisations that it makes itself, on a CPU, or by CUDA or TensorRT on a GPU."""

from __future__ import annotations

import queue
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d.config.precisions import PRECISIONS
from unet3d.engines import labels as labels_of
from unet3d.engines.base import CONTIGUOUS, REFERENCE, Effective, Engine, Finished, Profiled, Request
from unet3d.engines.onnxruntime import providers, refusals
from unet3d.engines.onnxruntime.lane import SessionLane
from unet3d.engines.ring import Ring
from unet3d.errors import MismatchError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch
    from numpy.typing import NDArray


class OnnxRuntimeEngine(Engine["torch.Tensor", "torch.Tensor"]):
    """See `unet3d.engines.base.Engine`. Each stream has a session of its own, with its share of the threads."""

    name = "onnxruntime"
    precisions = ("fp32", "fp16")
    onnx_platforms = ("CUDA",)

    @classmethod
    def precisions_on(cls, platform: str) -> tuple[str, ...]:
        return cls.precisions if platform in cls.onnx_platforms else ("fp32",)

    @classmethod
    def _refuse_precision(cls, precision: str) -> list[str]:
        if precision == "int8":
            return ["PRECISION=int8 with ENGINE=onnxruntime is not possible; int8 runs on ENGINE=openvino or torch"]
        return [
            f"PRECISION={precision} with ENGINE=onnxruntime is not possible, it has no {precision} for all of this network's "
            "layers; use PRECISION=fp32 or ENGINE=openvino, on an NVIDIA GPU PRECISION=fp16"
        ]

    @classmethod
    def _refuse_on_machine(cls, request: Request) -> list[str]:
        return refusals.on_machine(request)

    def load(self, reference: torch.nn.Module) -> None:
        import torch

        from unet3d.engines.onnxruntime.export import export

        if providers.chosen(self.request) == "tensorrt":
            import tensorrt  # noqa: F401 - loads the libraries that ONNX Runtime's provider needs

        self._torch, self._device = torch, self.request.device
        self._dtype = PRECISIONS[self.request.precision].dtype()
        self._profiles: tempfile.TemporaryDirectory[str] | None = None
        if self.request.profile:
            self._profiles = tempfile.TemporaryDirectory(prefix="unet3d-onnxruntime-")
        start = perf_counter()
        device = self._device.torch_device
        self._path, was_there = export(reference, self.request.cache_dir, self.request.precision, device)
        self.load_seconds["read export" if was_there else "export"] = perf_counter() - start

        start = perf_counter()
        self._memory_before = self._device.memory_outside_pytorch()
        self._threads = max(1, self.request.threads // self.request.streams)
        self._lanes = [SessionLane(self._device, self._open) for _ in range(self.request.streams)]
        self._free: queue.SimpleQueue[SessionLane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._ring = Ring(self._device, self.request.streams, self._threads, channels_last=False)
        if self._device.is_host:
            for lane in self._lanes:
                lane.session(self.request.shape)
        self.load_seconds["create sessions"] = perf_counter() - start

    def _open(self, shape: tuple[int, ...] | None, stream: int | None) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if self._profiles is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "profile")
        return providers.open_session(self._path, options, self.request, shape, stream)

    @property
    def depth(self) -> int:
        return self._ring.depth

    def stage(self, volumes: NDArray[np.float32], slot: int | None = None) -> torch.Tensor:
        import numpy as np

        if self._device.is_host:
            return self._torch.from_numpy(np.ascontiguousarray(volumes, dtype=np.float32))
        return self._ring.stage(volumes, self._dtype, slot, self.request.input_on_device)

    def start(self, staged: torch.Tensor, slot: int) -> None:
        """See `Engine.start`. ONNX Runtime waits for its own network, so that only what is around it overlaps."""
        [lane] = self._lanes
        assert lane.stream is not None, "only where calls overlap"
        with self._device.on_stream(lane.stream), self._torch.inference_mode():
            self._ring.start(slot, staged, lane.run, self.request.input_on_device)

    def finish(self, slot: int) -> Finished:
        return self._ring.finish(slot)

    def infer(self, staged: torch.Tensor) -> torch.Tensor:
        lane = self._free.get()
        try:
            return self._infer_on(lane, staged)
        finally:
            self._free.put(lane)

    def _infer_on(self, lane: SessionLane, staged: torch.Tensor) -> torch.Tensor:
        with lane.running(), self._torch.inference_mode():
            return lane.run(self._device.upload(staged))

    def compile(self, staged: torch.Tensor) -> None:
        start = perf_counter()
        for lane in self._lanes:
            lane.keep_only(tuple(staged.shape))
            output = self._infer_on(lane, staged)
        if not self._device.is_host:
            self.labels(output)
        if self.depth > 1:
            self._ring.fill(tuple(staged.shape), self._dtype, self.request.input_on_device, self.start)
        self.load_seconds["first inference"] = perf_counter() - start

    def logits(self, output: torch.Tensor) -> NDArray[np.float32]:
        return output.float().cpu().numpy()

    def labels(self, output: torch.Tensor) -> NDArray[np.uint8]:
        if self._device.is_host:
            return super().labels(output)
        return labels_of.most_likely(output).cpu().numpy()

    def operators(self, staged: torch.Tensor) -> Profiled:
        from unet3d.engines.onnxruntime import operators

        self.infer(staged)
        session = self._lanes[0].session(tuple(staged.shape))
        return Profiled(*operators.read(Path(session.end_profiling())))

    def own_device_memory(self) -> int:
        return max(0, self._device.memory_outside_pytorch() - self._memory_before)

    def effective(self) -> Effective:
        import onnxruntime

        sessions = [session for lane in self._lanes for session in lane.sessions.values()]
        if not sessions:
            raise MismatchError("onnxruntime: nothing has run yet; run compare or compile first")
        session, details = sessions[0], providers.told_of(sessions[0], self.request)
        engine, device = f"onnxruntime {onnxruntime.__version__}", "cpu"
        if name := providers.chosen(self.request):
            engine += f" {providers.SHOWN[name]}"
            device = f"cuda:{session.get_provider_options()[providers.PROVIDERS[name]]['device_id']}"
            details |= {"input_on_device": self.request.input_on_device, "calls_under_way": self.depth}
        else:
            details["threads_per_stream"] = self._threads
        return Effective(
            engine=engine,
            device=device,
            precision=providers.precision_of(session),
            jit="none",
            layout=CONTIGUOUS,
            network=REFERENCE,
            details=details,
        )

    def close(self) -> None:
        for lane in self._lanes:
            lane.clear()
        self._ring.clear()
        if self._profiles is not None:
            self._profiles.cleanup()
