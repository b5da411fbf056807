"""Intel's xpu-smi as a source: one process that prints a line a second while the run is measured. Not run on hardware."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import threading
from pathlib import Path

from unet3d.measure.telemetry.source import Absent

RENDER_NODES = Path("/dev/dri")
# Numbers by which `xpu-smi dump -m` knows them: utilisation, power, frequency, core temperature, memory used.
METRICS = "0,1,2,3,18"
# Columns by the beginning of their heading, with what turns them into our unit.
COLUMNS = {
    "GPU Utilization": ("gpu_utilisation_percent", 1),
    "GPU Power": ("gpu_power_w", 1),
    "GPU Frequency": ("gpu_core_clock_mhz", 1),
    "GPU Core Temperature": ("gpu_temperature_c", 1),
    "GPU Memory Used": ("gpu_memory_bytes", 2**20),
}


class XpuSmi:
    """The last line that xpu-smi printed. It has no energy counter that is finer than its power figure."""

    name = "xpu-smi"
    # A line is of the second before it, and may be a second old.
    least_window_s = 3.0

    def __init__(self, command: str | None = None):
        """Raises Absent where xpu-smi is not installed or several GPUs leave open which is which."""
        command = command or shutil.which("xpu-smi")
        if command is None:
            raise Absent("GPU utilisation (xpu-smi is not installed: github.com/intel/xpumanager)")
        if len(list(RENDER_NODES.glob("renderD*"))) > 1:
            # Its numbers are those of cards, PyTorch's of tiles, and ZE_AFFINITY_MASK hides some.
            raise Absent("GPU utilisation (several GPUs: xpu-smi's numbers are not PyTorch's)")
        # To a pipe a program may hold back its lines until there are many, to a terminal it does not.
        ours, theirs = pty.openpty()
        try:
            self._process = subprocess.Popen(
                [command, "dump", "-d", "0", "-m", METRICS, "-i", "1"],
                stdout=theirs,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            os.close(ours)
            raise Absent(f"GPU utilisation (xpu-smi: {error.strerror})") from None
        finally:
            os.close(theirs)
        self._latest: dict[str, float] = {}
        self._reader = threading.Thread(target=self._follow, args=(ours,), name="xpu-smi", daemon=True)
        self._reader.start()

    def _follow(self, terminal: int) -> None:
        heading: list[str] = []
        # A terminal whose other side is closed ends with an error.
        with contextlib.suppress(OSError), open(terminal, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Timestamp"):
                    heading = line.split(",")
                elif heading:
                    self._latest = parse(heading, line.split(","))

    def read(self) -> dict[str, float]:
        return dict(self._latest)

    def joules(self) -> None:
        return None

    def close(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._reader.join(5)


def parse(heading: list[str], cells: list[str]) -> dict[str, float]:
    """Metrics of one line of `xpu-smi dump`; "N/A" and unknown columns are left out."""
    metrics = {}
    for title, cell in zip(heading, cells, strict=False):
        for beginning, (metric, factor) in COLUMNS.items():
            if title.strip().startswith(beginning):
                with contextlib.suppress(ValueError):
                    metrics[metric] = float(cell) * factor
    return metrics
