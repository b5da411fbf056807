"""What a run prints: what runs, how far it is, warnings; and its copy in output_raw.log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from unet3d import columns, progress, streams
from unet3d.config import kinds
from unet3d.config.settings import SETTINGS
from unet3d.config.values import Settings
from unet3d.errors import UserError, shown
from unet3d.progress import Display
from unet3d.results.facts import Dice, RunWarning
from unet3d.results.record import Record
from unet3d.results.timing import Statistics, percentile
from unet3d.workload import REGIONS


class Console(Display):
    """Prints to standard output and, once a log is open, to the log; rank and size stand in every INFO line.

    Where somebody watches, short forms are printed; in pipes and in the log each line has the form that scripts parse.
    """

    def __init__(self, rank: int = 0, size: int = 1, stream: TextIO | None = None, only_status: bool = False):
        """only_status: of INFO lines print those with PERF_STATUS, for ranks that would repeat what rank 0 says. On a
        terminal these go to the log alone: rank 0 draws there."""
        super().__init__(stream or sys.stdout, muted=only_status)
        self.rank, self.size, self._only_status = rank, size, only_status
        self._gone = False  # the console, which the log outlives
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

    def put(self, text: str) -> None:
        """Print above a live line, while there is a console.

        Raises:
            BrokenPipeError: when who read the output has closed it.
        """
        if self._gone:
            return
        try:
            super().put(text)
        except BrokenPipeError:
            self._gone = True  # what is told while the run ends is in the log
            raise
        except OSError as error:
            # The results are worth more than what is printed of them.
            if self.stream is sys.stdout:
                streams.drop_output()
            self._gone = True
            where = f"; what follows is in {self._log.name}" if self._log else ""
            print(f"WARNING[console]: standard output cannot be written ({error.strerror}){where}", file=sys.stderr)

    def log(self, text: str) -> None:
        """Write to the log alone."""
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

    def line(self, text: str = "") -> None:
        """Print one line (or several, split by newlines)."""
        self.put(text)
        self.log(text)

    def info(self, text: str) -> None:
        """Print an INFO line."""
        if not self._only_status:
            self.line(self._named(text))
        elif "PERF_STATUS" in text:
            (self.log if self.on_terminal else self.line)(self._named(text))

    def say(self, text: str, drawn: bool = False) -> None:
        """Tell of a phase; see `Display.say`. The log has all of it."""
        (self.log if drawn and self.live else self.line)(self._named(text))

    def _named(self, text: str) -> str:
        return f"INFO[{self.rank + 1}/{self.size}]: {text}"

    def warning(self, warning: RunWarning) -> None:
        """Print a warning with its name and remedy."""
        remedy = f" {warning.remedy}" if warning.remedy else ""
        self.line(f"WARNING[{warning.name}]: {warning.message}{remedy}")

    def fitted(self, lines: Callable[[int | None], Sequence[str]]) -> None:
        """Print the lines that are given for a width, such as a table's; the log has them whole, those of None."""
        self.put("\n".join(lines(self.width)))
        self.log("\n".join(lines(None)))

    @property
    def width(self) -> int:
        """Characters in a line."""
        return progress.columns(self.stream)

    def introduce(self, settings: Settings) -> None:
        """Say in a line what runs, and in another what was set to something else than the default.

        The whole table of settings is in the log, and with VERBOSE=yes on the console too.
        """
        for line in (headline(settings), chosen(settings)):
            if line:
                self.put("\n".join(columns.paragraph(line, self.width if self.on_terminal else None)))
                self.log(line)
        (self.line if settings.verbose else self.log)(banner(settings))

    def status(self, done: int, planned: int, stats: Statistics, accuracy: Dice | None) -> None:
        """Say how far the timed calls are: short on a terminal, otherwise as a PERF_STATUS line."""
        full = status(done, planned, stats, accuracy)
        if not self.on_terminal:
            self.info(full)
            return
        self.log(self._named(full))
        if not self._only_status:
            self.put(short_status(done, planned, stats, accuracy))


def headline(settings: Settings) -> str:
    """What runs, on what, how often, in one line."""
    several = settings.devices if settings.platform != "CPU" else settings.instances
    count = settings.num_iterations
    parts = [
        f"{settings.engine} {settings.precision} on {settings.platform}",
        "" if settings.jit == "none" else f"JIT {settings.jit}",
        "" if settings.network == "fast" else f"{settings.network} network",
        f"batch {settings.batch_size}",
        f"{settings.streams} streams" if settings.streams > 1 else "",
        f"{several} processes" if several > 1 else "",
        f"{settings.nnodes} machines" if settings.nnodes > 1 else "",
        f"volume {'x'.join(map(str, settings.volume_shape))}",
        f"{count} call{'s' if count > 1 else ''}" if settings.scenario == "Default" else f"LoadGen {settings.scenario}",
        "random volumes" if settings.dummy else f"data {settings.dataset_dir}",
        f"weights {settings.weights}",
    ]
    return "Running " + ", ".join(part for part in parts if part)


def chosen(settings: Settings) -> str:
    """What the user has set to something else than the default, as variables; empty where nothing is."""
    given = [
        f"{setting.variable}={kinds.show(settings.value(setting.name))}"
        for setting in SETTINGS
        if settings.sources[setting.name] != "default" and settings.value(setting.name) != setting.default
    ]
    return f"Set: {' '.join(given)}" if given else ""


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


def short_status(done: int, planned: int, stats: Statistics, accuracy: Dice | None) -> str:
    """The same for whoever watches, at most 80 characters."""
    latency = f"{stats.mean:.0f}" if stats.mean >= 1000 else f"{stats.mean:.4g}"
    parts = [
        f"{done:>{len(str(planned))}}/{planned} {stats.throughput:.4g} volumes/s, {latency} ms",
        f"with overhead {stats.throughput_with_overhead:.4g}/s",
    ]
    if accuracy:
        parts.append(f"Dice {fraction(accuracy.total)}")
    return "; ".join(parts)


def summary(record: Record, stats: Statistics) -> list[str]:
    """The closing lines: what was measured, of what, how steady."""
    ran, settings = record.effective, record.settings
    weights = record.weights.kind if record.weights else "unknown"
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
        *_one_at_a_time(record.one_at_a_time_ms),
        f"throughput {stats.throughput:.4g} img/s, {stats.throughput * record.tflop_per_volume:.3g} nominal TFLOP/s, "
        f"peak memory {_peak(record)}",
    ]
    if record.accuracy:
        shown = ", ".join(f"{region} {fraction(record.accuracy.of(region))}" for region in (*REGIONS, "total"))
        lines.append(f"Dice of weights: {weights} on {len(record.accuracy.cases)} cases: {shown}")
    return lines


def _one_at_a_time(latencies_ms: Sequence[float]) -> list[str]:
    if not latencies_ms:
        return []
    alone = percentile(latencies_ms, 50)
    return [f"these calls overlap; one at a time, by the host's clock, it is {alone:.2f} ms (p50 of {len(latencies_ms)} calls)"]


def _peak(record: Record) -> str:
    """Most memory in use; beside a device it is told which is the host's and which the device's."""
    host = (record.memory.peak_host_bytes if record.memory else 0) / 2**30
    if record.settings.platform == "CPU":
        return f"{host:.2f} GiB"
    device = record.memory.peak_device_bytes if record.memory else None
    return f"host {host:.2f} GiB" + ("" if device is None else f", device {device / 2**30:.2f} GiB")


def fraction(value: float | None) -> str:
    """A Dice as people write it."""
    return "undefined" if value is None else f"{value:.4f}"
