"""Intel GPUs: Flex, Max and others that torch.xpu serves. Not run on hardware."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unet3d.devices.accelerator import AcceleratorDevice
from unet3d.devices.base import PowerSource
from unet3d.errors import UserError

RENDER_NODES = Path("/dev/dri")
HWMON = Path("/sys/class/hwmon")
HIERARCHY, COMPOSITE = "ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE"


def platform_of(device_name: str) -> str:
    """Flex or Max from the name that the driver gives; an Intel GPU of another series runs as Flex does."""
    return "Max" if "max" in device_name.casefold() else "Flex"


def _hierarchy() -> str:
    return os.environ.get(HIERARCHY, "FLAT").upper()


class XpuDevice(AcceleratorDevice):
    """See `unet3d.devices.base.Device`."""

    kind = "xpu"
    compute_unit_name = "execution units"
    visibility_variable: ClassVar[str | None] = "ZE_AFFINITY_MASK"
    single_tile_platforms: ClassVar[frozenset[str]] = frozenset({"Flex"})
    telemetry_sources: ClassVar[tuple[str, ...]] = ("counter", "xpu-smi")

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

    @classmethod
    def visible_names(cls) -> list[str]:
        """With ZE_FLAT_DEVICE_HIERARCHY=FLAT, the driver's default, a tile is a device; with COMPOSITE a card is one, and
        its tiles are card.tile (https://oneapi-src.github.io/level-zero-spec/level-zero/latest/core/PROG.html#affinity-mask).

        Raises:
            UserError: with ONEAPI_DEVICE_SELECTOR, which numbers devices in another way.
        """
        if os.environ.get("ONEAPI_DEVICE_SELECTOR"):
            raise UserError(
                "ONEAPI_DEVICE_SELECTOR is set, so tiles cannot be told apart by ZE_AFFINITY_MASK; unset it, or "
                "choose tiles with ZE_AFFINITY_MASK"
            )
        names = cls._chosen_names()
        if _hierarchy() != COMPOSITE:
            return names
        tiles: list[str] = []
        for index, name in enumerate(names):
            own = [tile.partition(".")[2] for tile in cls(index).tiles()]
            tiles += [name] if "." in name else [f"{name}.{tile}" for tile in own]
        return tiles

    @classmethod
    def variables_for(cls, name: str) -> dict[str, str]:
        return {**super().variables_for(name), HIERARCHY: _hierarchy()}

    @classmethod
    def place_name(cls, name: str) -> str:
        return f"tile {name}"

    @classmethod
    def triton_programs(cls, index: int | None) -> int:
        # A vector engine is an eighth of what an NVIDIA multiprocessor is. Where the driver does not tell their number, it
        # is that of a Max 1550's tile.
        engines: int = getattr(cls.runtime().get_device_properties(index), "gpu_eu_count", 512)
        return max(4, engines // 2)

    def platform(self) -> str:
        return platform_of(self._told().name)

    def driver(self) -> str | None:
        return getattr(self._told(), "driver_version", None)

    def compute_units(self) -> int:
        engines: int = getattr(self._told(), "gpu_eu_count")  # noqa: B009 - told by torch.xpu alone
        return engines

    def architecture(self) -> str | None:
        return getattr(self._told(), "version", None)

    def tiles(self) -> list[str]:
        """With ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE a card is one device of several tiles, otherwise a tile is one."""
        if _hierarchy() != COMPOSITE:
            return [str(self.index)]
        count: int = getattr(self._told(), "max_num_sub_devices", 1)
        return [f"{self.index}.{tile}" for tile in range(max(1, count))]

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


if TYPE_CHECKING:
    from collections.abc import Callable

    from unet3d.devices.base import Device

    _conforms: Callable[[int], Device] = XpuDevice
