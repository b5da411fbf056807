"""NVIDIA GPUs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from unet3d.devices import nvml
from unet3d.devices.accelerator import AcceleratorDevice, DriverProperties
from unet3d.devices.base import PowerSource


class CudaDevice(AcceleratorDevice):
    """See `unet3d.devices.base.Device`."""

    kind = "cuda"
    compute_unit_name = "streaming multiprocessors"
    visibility_variable: ClassVar[str | None] = "CUDA_VISIBLE_DEVICES"
    telemetry_sources: ClassVar[tuple[str, ...]] = ("counter", "nvml")
    # Other threads may use the GPU while this one records.
    capture_options: ClassVar[dict[str, str]] = {"capture_error_mode": "thread_local"}

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

    @classmethod
    def place_name(cls, name: str) -> str:
        return f"GPU {name}"

    @classmethod
    def triton_programs(cls, index: int | None) -> int:
        return 4 * _told_of_gpu(cls.runtime().get_device_properties(index)).multi_processor_count

    def platform(self) -> str:
        return "CUDA"

    def driver(self) -> str | None:
        return nvml.driver_version()

    def compute_units(self) -> int:
        return _told_of_gpu(self._told()).multi_processor_count

    def architecture(self) -> str | None:
        told = _told_of_gpu(self._told())
        return f"sm_{told.major}{told.minor}"

    def uuid(self) -> object:
        """What NVML, too, knows the GPU by."""
        return _told_of_gpu(self._told()).uuid

    @classmethod
    def cudnn_version(cls) -> int | None:
        import torch

        cudnn: Any = torch.backends.cudnn  # PyTorch gives its functions no types
        version: int | None = cudnn.version()
        return version

    def _open_power_source(self) -> PowerSource | None:
        return nvml.open_counter(self.uuid())


class GpuProperties(DriverProperties, Protocol):
    """What torch.cuda tells beside."""

    multi_processor_count: int
    major: int
    minor: int
    uuid: object


def _told_of_gpu(told: DriverProperties) -> GpuProperties:
    return cast("GpuProperties", told)


if TYPE_CHECKING:
    from collections.abc import Callable

    from unet3d.devices.base import Device

    _conforms: Callable[[int], Device] = CudaDevice
