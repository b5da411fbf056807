"""OpenVINO on the CPU and on Intel GPUs: fp32, bf16 or fp16 by the plugin's inference precision, int8 by NNCF.

`network=fast` runs the graph of `unet3d.engines.openvino.graph`, `network=reference` what OpenVINO's converter makes of
nnU-Net's own module. Both go the same way on both devices.
"""

from __future__ import annotations

import importlib.util
import itertools
import queue
import threading
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING

from unet3d.config.precisions import PRECISIONS
from unet3d.devices import host
from unet3d.engines.base import CHANNELS_LAST, CONTIGUOUS, NEEDS_CALIBRATION, Effective, Engine, Profiled, Request
from unet3d.engines.openvino.operators import convolution_work
from unet3d.errors import MismatchError

if TYPE_CHECKING:
    import numpy as np
    import openvino
    import torch
    from numpy.typing import NDArray

INSTALL = "pip install -r requirements-openvino.txt"
DEVICES = {"cpu": "CPU", "xpu": "GPU"}
# What each plugin computes in.
OF_PLUGIN = {"cpu": ("fp32", "bf16", "int8"), "xpu": ("fp32", "fp16", "int8")}
LAYOUTS = {"acdeb": CHANNELS_LAST, "abcde": CONTIGUOUS}


def fastest_float(kind: str) -> str:
    """The plugin's fastest floating-point type, which layers of an int8 network that are not quantised take."""
    on_cpu = "bf16" if host.bf16_instructions() else "fp32"
    return {"cpu": on_cpu, "xpu": "fp16"}[kind]


class OpenVINOEngine(Engine["openvino.Tensor", "openvino.Tensor"]):
    """See `unet3d.engines.base.Engine`. Each call of `infer` under way has an infer request of its own."""

    name = "openvino"
    precisions = tuple(dict.fromkeys(itertools.chain(*OF_PLUGIN.values())))

    @classmethod
    def _refuse_precision(cls, precision: str) -> list[str]:
        return [f"PRECISION={precision} with ENGINE=openvino is not possible; use {', '.join(cls.precisions)}"]

    @classmethod
    def _refuse_on_machine(cls, request: Request) -> list[str]:
        if request.device.kind not in DEVICES:
            return [f"ENGINE=openvino on {request.device.kind} is not possible; use PLATFORM=CPU, Flex or Max, or ENGINE=torch"]
        reasons = []
        if importlib.util.find_spec("openvino") is None:
            reasons.append(f"ENGINE=openvino, but openvino is not installed; {INSTALL}")
        allowed = OF_PLUGIN[request.device.kind]
        if request.precision not in allowed:
            reasons.append(
                f"PRECISION={request.precision} with ENGINE=openvino on {DEVICES[request.device.kind]} is "
                f"not possible; use {', '.join(allowed)}"
            )
        elif request.precision == "bf16" and host.bf16_instructions() is None:
            reasons.append(
                "PRECISION=bf16 with ENGINE=openvino needs a CPU with AMX or AVX512-BF16; use PRECISION=fp32 or int8"
            )
        if request.input_on_device and not request.device.is_host:
            reasons.append("INPUT_ON_DEVICE=yes with ENGINE=openvino is not possible on a GPU; use INPUT_ON_DEVICE=no")
        if request.profile and request.streams > 1:
            reasons.append(
                f"PROFILE=yes with ENGINE=openvino and STREAMS={request.streams} is not possible, its operators' "
                "times are kept stream by stream; use STREAMS=1"
            )
        if request.precision == "int8":
            if importlib.util.find_spec("nncf") is None:
                reasons.append(f"PRECISION=int8 with ENGINE=openvino, but nncf is not installed; {INSTALL}")
            if request.calibration is None:
                reasons.append(NEEDS_CALIBRATION)
        return reasons

    def load(self, reference: torch.nn.Module) -> None:
        import openvino

        self._openvino = openvino
        self._core = openvino.Core()
        self._device = self._pick_device()
        self._compiled: dict[tuple[int, ...], tuple[openvino.CompiledModel, queue.SimpleQueue[openvino.InferRequest]]] = {}
        self._compiling = threading.Lock()
        self._calls: Counter[tuple[int, ...]] = Counter()
        if self.request.precision == "int8":
            from unet3d.engines.openvino.quantization import quantised

            self._path, self.load_seconds = quantised(reference, self.request)
            return
        from unet3d.engines.openvino.ir import exported

        self._path, self.load_seconds = exported(reference, self.request.network, self.request.cache_dir)

    def _pick_device(self) -> str:
        """OpenVINO's name of the device; its GPUs are numbered as the driver numbers them."""
        wanted = DEVICES[self.request.device.kind]
        there = [name for name in self._core.available_devices if name.split(".")[0] == wanted]
        if not there:
            from unet3d.errors import UserError

            raise UserError(
                f"ENGINE=openvino: OpenVINO sees no {wanted}, only "
                f"{', '.join(self._core.available_devices)}; install the driver or use ENGINE=torch"
            )
        return there[self.request.device.index] if len(there) > self.request.device.index else there[0]

    def _properties(self) -> dict[str, object]:
        request = self.request
        computed = PRECISIONS[request.precision]
        hint = computed.openvino_hint or PRECISIONS[fastest_float(request.device.kind)].openvino_hint
        properties: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": request.streams,
            "PERFORMANCE_HINT": "THROUGHPUT" if request.streams > 1 else "LATENCY",
            "PERF_COUNT": request.profile,
        }
        if self._device == "CPU":
            properties["INFERENCE_NUM_THREADS"] = request.threads
            properties["ENABLE_CPU_PINNING"] = True
        return properties

    def _for_shape(self, shape: tuple[int, ...]) -> tuple[openvino.CompiledModel, queue.SimpleQueue[openvino.InferRequest]]:
        with self._compiling:
            if shape not in self._compiled:
                model = self._core.read_model(self._path)
                model.reshape(list(shape))
                compiled = self._core.compile_model(model, self._device, self._properties())
                requests: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
                for _ in range(self.request.streams):
                    requests.put(compiled.create_infer_request())
                self._compiled[shape] = compiled, requests
            return self._compiled[shape]

    def stage(self, volumes: NDArray[np.float32], slot: int | None = None) -> openvino.Tensor:
        import numpy as np

        return self._openvino.Tensor(np.ascontiguousarray(volumes, dtype=np.float32), shared_memory=True)

    def compile(self, staged: openvino.Tensor) -> None:
        start = perf_counter()
        self._for_shape(tuple(staged.shape))
        self.load_seconds["compile"] = perf_counter() - start
        start = perf_counter()
        self.infer(staged)
        self.load_seconds["first inference"] = perf_counter() - start

    def infer(self, staged: openvino.Tensor) -> openvino.Tensor:
        compiled, requests = self._for_shape(tuple(staged.shape))
        request = requests.get()
        try:
            # A new output each time: the caller may keep it while the request runs again.
            output = self._openvino.Tensor(self._openvino.Type.f32, compiled.output(0).shape)
            request.set_input_tensor(staged)
            request.set_output_tensor(output)
            request.infer()
            if self.request.profile:
                self._calls[tuple(staged.shape)] += 1
            return output
        finally:
            requests.put(request)

    def logits(self, output: openvino.Tensor) -> NDArray[np.float32]:
        return output.data

    def operators(self, staged: openvino.Tensor) -> Profiled:
        from unet3d.engines.openvino import operators

        shape = tuple(staged.shape)
        compiled, requests = self._for_shape(shape)
        request = requests.get()
        requests.put(request)
        return Profiled(*operators.profile(compiled, request, self._calls[shape], lambda: self.infer(staged)))

    def executed(self) -> dict[str, float] | None:
        work, _ = convolution_work(self._for_shape(self.request.shape)[0])
        return work

    def effective(self) -> Effective:
        if not self._compiled:
            raise MismatchError("openvino: nothing was compiled yet; run compare or compile first")
        shape = max(self._compiled, key=lambda extents: extents[0] * extents[2] * extents[3] * extents[4])
        compiled, _ = self._compiled[shape]
        work, layers = convolution_work(compiled)
        total = sum(work.values())
        main = max(work, key=work.__getitem__)
        share = {name: part / total for name, part in work.items()}
        layouts = Counter(layer.layout for layer in layers)
        return Effective(
            engine=f"openvino {self._openvino.__version__.split('-')[0]}",
            device=str(self.request.device.torch_device),
            precision=main if share[main] > 0.9 else "+".join(sorted(work)),
            jit="none",
            layout=LAYOUTS.get(layouts.most_common(1)[0][0], "blocked"),
            network=self.request.network,
            details={
                "openvino_device": self._device,
                "device_name": self._core.get_property(self._device, "FULL_DEVICE_NAME"),
                "convolution_flop_share_by_input_type": share,
                "convolution_kernels": dict(Counter(layer.kernel for layer in layers)),
                "inference_precision_hint": str(compiled.get_property("INFERENCE_PRECISION_HINT")),
                "streams": compiled.get_property("NUM_STREAMS"),
                "calibration": self.request.calibration_source if self.request.precision == "int8" else None,
            },
        )

    def close(self) -> None:
        self._compiled = {}
