"""What a run prints: the banner, the PERF_STATUS lines, warnings; and its copy in output_raw.log."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TextIO

from unet3d import streams
from unet3d.config import kinds
from unet3d.config.settings import SETTINGS
from unet3d.config.values import Settings
from unet3d.errors import UserError, shown
from unet3d.results.facts import Dice, RunWarning
from unet3d.results.record import Record
from unet3d.results.timing import Statistics
from unet3d.workload import REGIONS


class Console:
    """Prints to standard output and, once a log is open, to the log; rank and size stand in every INFO line."""

    def __init__(self, rank: int = 0, size: int = 1, stream: TextIO | None = None, only_status: bool = False):
        """only_status: of INFO lines print those with PERF_STATUS, for ranks that would repeat what rank 0 says."""
        self.rank, self.size, self._only_status = rank, size, only_status
        self._stream: TextIO | None = stream or sys.stdout
        self._log: TextIO | None = None

    def open_log(self, path: Path, append: bool = False) -> None:
        """From now on everything printed is in this file too, and libraries' messages are in it alone.

        append: it is another process' log as well.

        Raises:
            UserError: when the file cannot be written.
        """
        try:
            # Open for the whole run.
            self._log = open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
            if not append:
                self._log.truncate(0)
            streams.noise_into(self._log.fileno())
        except OSError as error:
            self._log = None
            raise UserError(
                f"{shown(path)}: cannot be written ({error.strerror}); free some space or name another folder with OUTPUT_DIR"
            ) from None

    def close(self) -> None:
        """Close the log; a full disk has been told of before."""
        log, self._log = self._log, None
        if log is not None:
            with contextlib.suppress(OSError):
                log.close()

    def line(self, text: str = "") -> None:
        """Print one line (or several, split by newlines).

        Raises:
            BrokenPipeError: when who read the output has closed it.
        """
        # The log first: it has the line also where the console has gone.
        self._to_log(text)
        self._to_console(text)

    def _to_console(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            print(text, file=self._stream, flush=True)
        except BrokenPipeError:
            self._stream = None  # what is told while the run ends is in the log
            raise
        except OSError as error:
            # The results are worth more than what is printed of them.
            if self._stream is sys.stdout:
                streams.drop_output()
            self._stream = None
            where = f"; what follows is in {self._log.name}" if self._log else ""
            print(f"WARNING[console]: standard output cannot be written ({error.strerror}){where}", file=sys.stderr)

    def _to_log(self, text: str) -> None:
        if self._log is None:
            return
        try:
            print(text, file=self._log, flush=True)
        except OSError as error:
            # A full disk must not end a run whose results may still find room.
            log, self._log = self._log, None
            with contextlib.suppress(OSError):
                log.close()
            print(f"WARNING[log]: {log.name} ends here ({error.strerror}); free some space", file=sys.stderr)

    def info(self, text: str) -> None:
        """Print an INFO line."""
        if self._only_status and "PERF_STATUS" not in text:
            return
        self.line(f"INFO[{self.rank + 1}/{self.size}]: {text}")

    def warning(self, warning: RunWarning) -> None:
        """Print a warning with its name and remedy."""
        remedy = f" {warning.remedy}" if warning.remedy else ""
        self.line(f"WARNING[{warning.name}]: {warning.message}{remedy}")


def banner(settings: Settings) -> str:
    """Every setting with its value and, where the machine or the user decided, why."""
    width = max(len(setting.variable) for setting in SETTINGS)
    lines = ["Settings"]
    for setting in SETTINGS:
        value, source = settings.value(setting.name), settings.sources[setting.name]
        reason = settings.reasons.get(setting.name) or {"flag": "flag", "variable": "variable"}.get(source, "")
        shown = kinds.show(value) if value is not None else setting.shown_default
        lines.append(f"  {setting.variable:<{width}}  {shown}" + (f"  ({reason})" if reason else ""))
    return "\n".join(lines)


def status(done: int, planned: int, stats: Statistics, accuracy: Dice | None) -> str:
    """The PERF_STATUS part of a line, in the form that the archived sample's users parse."""

    def percent(region: str) -> str:
        value = accuracy.of(region) if accuracy else None
        return "n/a" if value is None else f"{100 * value:.4f}%"

    return (
        f"PERF_STATUS[{done}/{planned}] Throughput={stats.throughput:.2f} img/s | Latency={stats.mean:.2f} ms | "
        f"Total Accuracy={percent('total')} | Whole Tumor Accuracy={percent('WT')} | "
        f"Core Tumor Accuracy={percent('TC')} | Enhanced Tumor Accuracy={percent('ET')} | "
        f"Throughput /w Overhead={stats.throughput_with_overhead:.2f} img/s | "
        f"Latency /w Overhead={stats.latency_with_overhead:.2f} ms"
    )


def summary(record: Record, stats: Statistics) -> list[str]:
    """The closing lines: what was measured, of what, how steady."""
    ran, settings = record.effective, record.settings
    weights = record.weights.kind if record.weights else "unknown"
    gib = (record.memory.peak_host_bytes if record.memory else 0) / 2**30
    lines = []
    if ran:
        lines.append(
            f"{ran.engine}, {ran.precision}, JIT {ran.jit}, {ran.network}, "
            f"{ran.layout} on {settings.platform}, batch {settings.batch_size}; "
            f"weights: {weights}"
        )
    lines += [
        f"latency {stats.mean:.2f} ms ± {stats.stdev:.2f} (p50 {stats.p50:.2f}, p90 {stats.p90:.2f}, "
        f"p99 {stats.p99:.2f}, min {stats.min:.2f}, max {stats.max:.2f}) over {stats.calls} calls",
        f"throughput {stats.throughput:.4g} img/s, {stats.throughput * record.tflop_per_volume:.3g} TFLOP/s, "
        f"peak memory {gib:.2f} GiB",
    ]
    if record.accuracy:
        shown = ", ".join(f"{region} {fraction(record.accuracy.of(region))}" for region in (*REGIONS, "total"))
        lines.append(f"Dice of weights: {weights} on {len(record.accuracy.cases)} cases: {shown}")
    return lines


def fraction(value: float | None) -> str:
    """A Dice as people write it."""
    return "undefined" if value is None else f"{value:.4f}"
