"""Carries a sweep out: one configuration after another, the table written after each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unet3d import json_files, places, progress
from unet3d.commands.sweep import process, resume, tables
from unet3d.commands.sweep.grid import Configuration
from unet3d.config.values import Settings
from unet3d.devices import host
from unet3d.devices.base import Device
from unet3d.errors import Stopped, UserError
from unet3d.files import move_all_aside, write_atomically
from unet3d.progress import Display, duration
from unet3d.results.document import plain
from unet3d.results.schema import Results
from unet3d.version import __version__
from unet3d.workload import SHAPE

SCHEMA_VERSION = 1
TABLES = ("sweep.json", "sweep.md", "sweep.csv")
LARGEST_TABLE = 2**27  # bytes; a thousand configurations take a few MB


@dataclass(frozen=True)
class Planned:
    """A configuration that this machine can run, with all its settings, its device and the command that runs it alone."""

    configuration: Configuration
    settings: Settings
    device: Device
    command: str

    @property
    def name(self) -> str:
        return self.configuration.name


class Sweep:
    """The rows so far and where they are written; `again` is the command that goes on after an interruption."""

    def __init__(
        self,
        folder: Path,
        planned: Sequence[Planned],
        left_out: Sequence[dict[str, str]],
        words: Sequence[str],
        prefix: Sequence[str],
        time_limit: float | None,
        again: str,
    ):
        self.folder, self.planned, self.left_out = folder, planned, left_out
        self.words, self.prefix, self.time_limit, self.again = words, prefix, time_limit, again
        devices = {one.device.kind: one.device for one in planned}
        # What a device tells is asked for once, not for each of a thousand configurations.
        self.machines = {kind: host.with_device(host.hardware(), device) for kind, device in devices.items()}
        self.started = datetime.now(UTC)
        self.rows: dict[str, tables.Row] = {}
        self.seconds: dict[str, float] = {}

    def run(self, fresh: bool) -> int:
        """Run what is not there yet; returns the exit code.

        Raises:
            UserError: when weights cannot be read or files cannot be written.
        """
        fingerprints = {
            planned.name: resume.fingerprint(planned.settings, self.prefix, self.machines[planned.device.kind])
            for planned in self.planned
        }
        self._keep_other_tables(fresh)
        todo = []
        for planned in self.planned:
            earlier = None if fresh else resume.earlier(self.folder / planned.name, fingerprints[planned.name])
            if earlier is None:
                todo.append(planned)
            else:
                self._measured(planned, earlier)
        print(
            f"Sweep of {len(self.planned)} configurations into {self.folder}: {len(todo)} to run, "
            f"{len(self.rows)} there already, {len(self.left_out)} left out"
        )
        for reason, names in tables.by_reason(self.left_out).items():
            print(f"left out: {names}: {reason}")
        try:
            for number, planned in enumerate(todo, start=1):
                self._run_one(planned, fingerprints[planned.name], f"[{number}/{len(todo)}] {planned.name}", todo[number - 1 :])
        except Stopped as stop:
            done = sum(row["status"] == "measured" for row in self.rows.values())
            self._write()
            print(
                f"\nStopped: {done} of {len(self.planned)} configurations are in {self.folder / 'sweep.md'}. To go on: "
                f"{self.again}",
                flush=True,
            )
            return stop.exit_code
        document = self._write()
        print()
        print("\n".join(tables.console(document, progress.columns(sys.stdout))))
        print(f"Results: {self.folder / 'sweep.md'}, sweep.csv, sweep.json")
        return 0 if document["winners"] else 1

    def _keep_other_tables(self, fresh: bool) -> None:
        """Rename the tables of a sweep that this one does not go on with."""
        try:
            earlier = json_files.read(self.folder / TABLES[0], LARGEST_TABLE, "sweep")
        except UserError:
            earlier = None
        if fresh or not isinstance(earlier, dict) or earlier.get("again") != self.again:
            move_all_aside(self.folder, TABLES)

    def _run_one(self, planned: Planned, now: resume.Fingerprint, label: str, ahead: Sequence[Planned]) -> None:
        remaining = self._remaining(ahead)
        print(f"{label}: running{remaining and f', about {remaining} remain'}", flush=True)
        with Display(sys.stdout).phase(label, told=False):
            outcome = process.run(
                [*self.words, *planned.configuration.flags, *_store(planned.settings)],
                self.folder / planned.name,
                prefix=self.prefix,
                time_limit=self.time_limit,
            )
        self.seconds[planned.name] = outcome.seconds
        resume.write_state(self.folder / planned.name, now, outcome.seconds)
        if outcome.document is not None:
            row = self._measured(planned, outcome.document)
            print(
                f"{label}: {row['throughput_img_per_s']:.4g} img/s, median latency "
                f"{tables.milliseconds(row['latency_p50_ms'])} ms ({duration(outcome.seconds)})",
                flush=True,
            )
        else:
            self.rows[planned.name] = {
                "name": planned.name,
                "status": "failed",
                "reason": outcome.reason,
                "settings": dict(planned.configuration.settings),
                "command": planned.command,
            }
            print(f"{label}: failed: {outcome.reason} ({duration(outcome.seconds)})", flush=True)
        self._write()

    def _measured(self, planned: Planned, document: Results) -> tables.Row:
        row = {
            "name": planned.name,
            "status": "measured",
            "reason": None,
            "settings": dict(planned.configuration.settings),
            "command": planned.command,
            "results": str(Path(planned.name) / "results.json"),
            **tables.figures(document),
        }
        self.rows[planned.name] = row
        return row

    def _remaining(self, ahead: Sequence[Planned]) -> str:
        """Time that the configurations ahead will take, by their own earlier runs or the mean of those of this sweep."""
        earlier = [resume.read_state(self.folder / planned.name).get("seconds") for planned in ahead]
        known = [*self.seconds.values(), *(seconds for seconds in earlier if seconds)]
        if not known:
            return ""
        mean = sum(known) / len(known)
        return duration(sum(seconds or mean for seconds in earlier))

    def _write(self) -> dict[str, Any]:
        """sweep.json, sweep.md and sweep.csv of what there is."""
        rows = [
            self.rows[planned.name]
            if planned.name in self.rows
            else {
                "name": planned.name,
                "status": "not run",
                "reason": "the sweep has not come to it",
                "command": planned.command,
                "settings": dict(planned.configuration.settings),
            }
            for planned in self.planned
        ]
        rows = tables.ranked(rows)
        hardware, versions = {name: value for one in self.machines.values() for name, value in one.items()}, host.versions()
        commit, dirty = host.git_state(places.ROOT)
        first = self.planned[0].settings
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "complete": all(row["status"] != "not run" for row in rows),
            "benchmark": {"name": "unet3d", "version": __version__, "git_commit": commit, "git_dirty": dirty},
            "started": self.started.isoformat(),
            "written": datetime.now(UTC).isoformat(),
            "machine": machine(hardware, versions),
            "workload": _workload([planned.settings for planned in self.planned]),
            "hardware": hardware,
            "versions": versions,
            "variables": host.variables(),
            "platform": first.platform,
            "prefix": list(self.prefix),
            "again": self.again,
            "rows": rows,
            "left_out": list(self.left_out),
            "winners": {what: {"name": row["name"], "command": row["command"]} for what, row in tables.winners(rows).items()},
        }
        document = plain(document)
        json_files.write(self.folder / "sweep.json", document)
        write_atomically(self.folder / "sweep.md", tables.markdown(document))
        write_atomically(self.folder / "sweep.csv", tables.to_csv(document))
        return document


def _store(settings: Settings) -> list[str]:
    """Flags that keep the runs, each with an OUTPUT_DIR of its own, from preprocessing the same cases again."""
    chosen = "preprocessed_dir" in settings.reasons
    return ["--preprocessed-dir", str(settings.preprocessed_dir)] if chosen else []


def machine(hardware: dict[str, Any], versions: dict[str, str]) -> str:
    """The machine, the software and the device beside the host in one line."""
    best = [name for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx2") if name in hardware["instructions"]]
    engines = ("torch", "openvino", "nncf", "onnxruntime", "onnxruntime-gpu", "tensorrt-cu13")
    software = ", ".join(f"{name} {versions[name]}" for name in engines if name in versions)
    device = ""
    if "device" in hardware:
        told = [f"{hardware['device_memory_bytes'] / 2**30:.0f} GiB", f"driver {hardware.get('driver', 'unknown')}"]
        device = f"; {hardware['device']} ({', '.join(told)})"
    return (
        f"{hardware['cpu']}, {hardware['usable_cores']} cores ({', '.join(best) or hardware['architecture']}), "
        f"{hardware['memory_bytes'] / 2**30:.0f} GiB, {hardware['system']}, Python {versions['python']}, {software}{device}"
    )


def _workload(settings: Sequence[Settings]) -> str:
    """Volumes, batch sizes and calls of the runs, and that they are another workload where they are."""

    def every(name: str) -> str:
        return " or ".join(dict.fromkeys(str(getattr(settings_of_run, name)) for settings_of_run in settings))

    shapes = " or ".join(dict.fromkeys("×".join(map(str, settings_of_run.volume_shape)) for settings_of_run in settings))
    other = any(tuple(settings_of_run.volume_shape) != SHAPE for settings_of_run in settings)
    mode = "random volumes" if settings[0].dummy else "a data set's volumes"
    return (
        f"{mode} of {shapes} voxels{' (not this benchmark’s)' if other else ''}, batch {every('batch_size')}, "
        f"{every('num_iterations')} timed calls a configuration, weights: {every('weights')}"
    )
