"""NVIDIA GPUs."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any, ClassVar

from unet3d.devices.accelerator import AcceleratorDevice
from unet3d.devices.base import PowerSource


class CudaDevice(AcceleratorDevice):
    """See `unet3d.devices.base.Device`."""

    kind = "cuda"
    compute_unit_name = "streaming multiprocessors"
    # Other threads may use the GPU while this one records.
    capture_options: ClassVar[dict[str, Any]] = {"capture_error_mode": "thread_local"}

    def __init__(self, index: int = 0):
        super().__init__(index)
        import torch

        # Of several cuDNN kernels for a shape the fastest is measured and kept. TF32 would make fp32 a label for
        # products with 10 bits of mantissa.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    @classmethod
    def why_unavailable(cls) -> str:
        import torch

        if cls.is_available():
            return ""
        if torch.version.cuda is None:
            return (
                f"PLATFORM=CUDA, but torch {torch.__version__} is built without CUDA; install a CUDA build "
                "(https://pytorch.org/get-started/locally) or use PLATFORM=CPU"
            )
        if shutil.which("nvidia-smi") is None:
            return (
                "PLATFORM=CUDA, but no NVIDIA driver is here (no nvidia-smi); install it, in a container add "
                "--gpus all, or use PLATFORM=CPU"
            )
        return (
            f"PLATFORM=CUDA, but torch {torch.__version__} finds no usable GPU; compare the driver that nvidia-smi "
            f"shows with CUDA {torch.version.cuda}, or use PLATFORM=CPU"
        )

    def driver(self) -> str | None:
        with contextlib.suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            try:
                return pynvml.nvmlSystemGetDriverVersion()
            finally:
                pynvml.nvmlShutdown()
        return None

    def compute_units(self, found: Any) -> int:
        return found.multi_processor_count

    def architecture(self, found: Any) -> str | None:
        return f"sm_{found.major}{found.minor}"

    @classmethod
    def cudnn_version(cls) -> int | None:
        import torch

        return torch.backends.cudnn.version()

    def _open_power_source(self) -> PowerSource | None:
        return Nvml.open(self.runtime().get_device_properties(self.index))


class Nvml:
    """Energy and clocks of one GPU from NVIDIA's management library (package nvidia-ml-py)."""

    name = "NVML"

    def __init__(self, library: Any, handle: Any):
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, found: Any) -> Nvml | None:
        """The source of the GPU with these properties; None where the package, driver or counter is missing.

        By UUID, because NVML's numbers do not follow CUDA_VISIBLE_DEVICES.
        """
        try:
            import pynvml

            pynvml.nvmlInit()
            source = cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{found.uuid}"))
            source.joules()
        except Exception:  # noqa: BLE001 - any failure means that this machine offers no reading
            return None
        return source

    def joules(self) -> float:
        return self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def clocks_mhz(self) -> dict[str, int]:
        library = self._library
        clocks = {}
        for domain, number in (("core", library.NVML_CLOCK_SM), ("memory", library.NVML_CLOCK_MEM)):
            with contextlib.suppress(library.NVMLError):
                clocks[domain] = library.nvmlDeviceGetClockInfo(self._handle, number)
        return clocks

    def close(self) -> None:
        self._library.nvmlShutdown()
