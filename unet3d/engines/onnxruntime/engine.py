"""ONNX Runtime on the CPU, in float32: nnU-Net's own graph with the optimisations that ONNX Runtime makes itself."""

from __future__ import annotations

import importlib.util
import queue
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d.config.precisions import name_of_type
from unet3d.engines.base import CONTIGUOUS, REFERENCE, Effective, Engine, Profiled, Request
from unet3d.errors import MismatchError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    import torch
    from numpy.typing import NDArray

INSTALL = "pip install -r requirements-onnxruntime.txt"


class OnnxRuntimeEngine(Engine["NDArray[np.float32]", "NDArray[np.float32]"]):
    """See `unet3d.engines.base.Engine`. Streams are calls of one session from several threads."""

    name = "onnxruntime"
    precisions = ("fp32",)

    @classmethod
    def _refuse_precision(cls, precision: str) -> list[str]:
        reasons = [
            f"PRECISION={precision} with ENGINE=onnxruntime is not possible, its CPU kernels for "
            "3D convolutions are fp32; use PRECISION=fp32 or ENGINE=openvino"
        ]
        if precision == "int8":
            reasons.insert(0, "PRECISION=int8 with ENGINE=onnxruntime is not possible; int8 runs on ENGINE=openvino")
        return reasons

    @classmethod
    def _refuse_on_machine(cls, request: Request) -> list[str]:
        reasons = []
        missing = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
        if missing:
            reasons.append(f"ENGINE=onnxruntime, but {' and '.join(missing)} is not installed; {INSTALL}")
        if not request.device.is_host:
            reasons.append(f"ENGINE=onnxruntime on {request.device.kind} is not possible; use PLATFORM=CPU or ENGINE=torch")
        if request.profile and request.streams > 1:
            reasons.append(
                f"PROFILE=yes with ENGINE=onnxruntime and STREAMS={request.streams} is not possible, each stream "
                "is a session that is profiled by itself; use STREAMS=1"
            )
        return reasons

    def load(self, reference: torch.nn.Module) -> None:
        import onnxruntime

        from unet3d.engines.onnxruntime.export import export

        self._profiles: tempfile.TemporaryDirectory[str] | None = None
        start = perf_counter()
        path, was_there = export(reference, self.request.cache_dir)
        self.load_seconds["read export" if was_there else "export"] = perf_counter() - start

        start = perf_counter()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, self.request.threads // self.request.streams)
        options.log_severity_level = 3
        if self.request.profile:
            self._profiles = tempfile.TemporaryDirectory(prefix="unet3d-onnxruntime-")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "profile")
        # A session a stream: each has threads of its own, as many as its share.
        self._sessions = [
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for _ in range(self.request.streams)
        ]
        self._threads = options.intra_op_num_threads
        self._free: queue.SimpleQueue[onnxruntime.InferenceSession] | None = None
        self.load_seconds["create sessions"] = perf_counter() - start

    def _pool(self) -> queue.SimpleQueue[onnxruntime.InferenceSession]:
        if self._free is None:
            self._free = queue.SimpleQueue()
            for session in self._sessions:
                self._free.put(session)
        return self._free

    def stage(self, volumes: NDArray[np.float32], slot: int | None = None) -> NDArray[np.float32]:
        import numpy as np

        return np.ascontiguousarray(volumes, dtype=np.float32)

    def compile(self, staged: NDArray[np.float32]) -> None:
        start = perf_counter()
        for session in self._sessions:
            session.run(None, {session.get_inputs()[0].name: staged})
        self.load_seconds["first inference"] = perf_counter() - start

    def infer(self, staged: NDArray[np.float32]) -> NDArray[np.float32]:
        pool = self._pool()
        session = pool.get()
        try:
            return session.run(None, {session.get_inputs()[0].name: staged})[0]
        finally:
            pool.put(session)

    def operators(self, staged: NDArray[np.float32]) -> Profiled:
        from unet3d.engines.onnxruntime import operators

        self.infer(staged)
        return Profiled(*operators.read(Path(self._sessions[0].end_profiling())))

    def logits(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        return output.astype("float32", copy=False)

    def effective(self) -> Effective:
        import onnxruntime

        session = self._sessions[0]
        providers = session.get_providers()
        if providers != ["CPUExecutionProvider"]:
            raise MismatchError(f"onnxruntime: runs on {providers} instead of the CPU; use ENGINE=torch or openvino")
        input_type = session.get_inputs()[0].type.removeprefix("tensor(").removesuffix(")")
        return Effective(
            engine=f"onnxruntime {onnxruntime.__version__}",
            device="cpu",
            precision=name_of_type(input_type),
            jit="none",
            layout=CONTIGUOUS,
            network=REFERENCE,
            details={"threads_per_stream": self._threads, "providers": providers},
        )

    def close(self) -> None:
        self._sessions = []
        self._free = None
        if self._profiles is not None:
            self._profiles.cleanup()
