"""Intel GPUs: Flex, Max and others that torch.xpu serves. Not run on hardware."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from unet3d.devices.accelerator import AcceleratorDevice
from unet3d.devices.base import PowerSource

RENDER_NODES = Path("/dev/dri")
HWMON = Path("/sys/class/hwmon")


class XpuDevice(AcceleratorDevice):
    """See `unet3d.devices.base.Device`."""

    kind = "xpu"
    compute_unit_name = "execution units"

    @classmethod
    def why_unavailable(cls) -> str:
        import torch

        if cls.is_available():
            return ""
        advice = "or use PLATFORM=CPU"
        nodes = sorted(RENDER_NODES.glob("renderD*")) if RENDER_NODES.is_dir() else []
        if not nodes:
            return (
                "PLATFORM=Flex or Max, but no GPU is here (/dev/dri has no render node); install Intel's GPU driver, "
                f"in a container add --device /dev/dri, {advice}"
            )
        if not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
            group = nodes[0].stat().st_gid
            return (
                f"PLATFORM=Flex or Max, but {nodes[0]} may not be opened; add the user to the group with number "
                f"{group} (render), in a container add --group-add {group}, {advice}"
            )
        if not torch.xpu._is_compiled():
            return (
                f"PLATFORM=Flex or Max, but torch {torch.__version__} is built without XPU; install one from "
                f"https://download.pytorch.org/whl/xpu, {advice}"
            )
        return (
            "PLATFORM=Flex or Max, but PyTorch finds no GPU; install Intel's compute runtime (package "
            f"intel-opencl-icd, libze-intel-gpu1), {advice}"
        )

    def driver(self) -> str | None:
        return getattr(self.runtime().get_device_properties(self.index), "driver_version", None)

    def compute_units(self, found: Any) -> int:
        return found.gpu_eu_count

    def architecture(self, found: Any) -> str | None:
        return getattr(found, "version", None)

    def tiles(self) -> list[str]:
        """With ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE a card is one device of several tiles, otherwise a tile is one."""
        if os.environ.get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT").upper() != "COMPOSITE":
            return [str(self.index)]
        found = self.runtime().get_device_properties(self.index)
        return [f"{self.index}.{tile}" for tile in range(max(1, getattr(found, "max_num_sub_devices", 1)))]

    def _open_power_source(self) -> PowerSource | None:
        return KernelCounter.open()


class KernelCounter:
    """Energy counter of the only Intel GPU of the machine, from the i915 or xe driver's hwmon files."""

    name = "hwmon"

    def __init__(self, file: Path):
        self._file = file

    @classmethod
    def open(cls) -> KernelCounter | None:
        """None where no counter can be read, or where several GPUs leave it open which counter is whose."""
        files = []
        for folder in HWMON.glob("hwmon*"):
            with contextlib.suppress(OSError):
                if (folder / "name").read_text().strip() in ("i915", "xe"):
                    file = folder / "energy1_input"
                    int(file.read_text())
                    files.append(file)
        return cls(files[0]) if len(files) == 1 else None

    def joules(self) -> float:
        return int(self._file.read_text()) / 1e6

    def clocks_mhz(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing is held open."""
