"""Warnings about a run: each has a name, says what was seen, and what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from unet3d.config.misspelt import nearly_settings
from unet3d.config.values import Settings
from unet3d.devices import host
from unet3d.errors import shown
from unet3d.results.facts import RunWarning
from unet3d.results.timing import UNSTEADY, Sample, steady, summarise
from unet3d.workload import SHAPE

FEW_CALLS = 5


def before(settings: Settings) -> Iterator[RunWarning]:
    """What can be known before timing: volume, frequency governor, other load, threads."""
    if settings.volume_shape != SHAPE:
        yield RunWarning(
            "other-volume",
            f"volumes of {settings.volume_shape} are not this benchmark's.",
            "Leave VOLUME_SHAPE out to compare with other results.",
        )
    governor = host.frequency_governor()
    if settings.platform == "CPU" and governor not in (None, "performance"):
        yield RunWarning(
            "cpu-frequency",
            f"the CPU's frequency governor is '{governor}'.",
            "Set it to 'performance' (cpupower frequency-set -g performance) for steady times.",
        )
    yield from other_load()
    if settings.threads > host.usable_cores():
        yield RunWarning(
            "threads", f"THREADS={settings.threads} is more than the {host.usable_cores()} cores.", "Lower THREADS."
        )
    if os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA"):
        yield RunWarning("isa-limited", "ONEDNN_MAX_CPU_ISA limits the CPU's instructions.", "Unset it.")


def misspelt(environ: Mapping[str, str]) -> Iterator[RunWarning]:
    """Variables that are no setting but nearly one."""
    for variable, meant in nearly_settings(environ):
        yield RunWarning(
            "misspelt-variable",
            f"{shown(variable, 60)} is set, which is no setting; did you mean {meant}?",
            f"Set {meant}, or unset it.",
        )


def other_load() -> Iterator[RunWarning]:
    """Whether the machine has had other work."""
    load, cores = os.getloadavg()[0], host.usable_cores()
    if load > max(0.5, 0.25 * cores):
        yield RunWarning(
            "other-load",
            f"the machine was busy before the run: load average {load:.1f} on {cores} cores.",
            "Stop other work and run again.",
        )


def after(samples: Sequence[Sample], streams: int, warm_up_settled: bool) -> Iterator[RunWarning]:
    """What the samples themselves show."""
    stats = summarise(samples, streams)
    if stats.calls < FEW_CALLS:
        yield RunWarning(
            "few-samples",
            f"{stats.calls} calls were timed: percentiles and deviation mean little.",
            "Raise NUM_ITERATIONS to 10 or more.",
        )
    elif stats.cv > UNSTEADY:
        yield RunWarning(
            "unstable-times",
            f"latencies vary by {stats.cv:.1%} (standard deviation over mean).",
            "Stop other work, raise WARM_UP or NUM_ITERATIONS, and run again.",
        )
    if not steady(samples, streams):
        yield RunWarning(
            "few-for-streams",
            f"{stats.calls} calls leave no time in which all {streams} streams are in flight; throughput is of all calls.",
            f"Raise NUM_ITERATIONS to {3 * streams} or more.",
        )
    if not warm_up_settled:
        yield RunWarning("warm-up", "times had not settled when warm-up ended.", "Set WARM_UP to a higher number.")
