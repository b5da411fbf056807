"""Warnings about a run: each has a name, says what was seen, and what to do."""

from __future__ import annotations

import os

from unet3d.devices import host
from unet3d.results.record import Record
from unet3d.results.timing import UNSTEADY, summarise

FEW_CALLS = 5


def before(record: Record) -> None:
    """What can be known before timing: settings, frequency governor, other load."""
    settings = record.settings
    for name, text in settings.warnings:
        record.warn(name, text)
    if tuple(settings.volume_shape) != (224, 224, 160):
        record.warn(
            "other-volume",
            f"volumes of {settings.volume_shape} are not this benchmark's.",
            "Leave VOLUME_SHAPE out to compare with other results.",
        )
    governor = record.environment["hardware"]["frequency_governor"]
    if settings.platform == "CPU" and governor not in (None, "performance"):
        record.warn(
            "cpu-frequency",
            f"the CPU's frequency governor is '{governor}'.",
            "Set it to 'performance' (cpupower frequency-set -g performance) for steady times.",
        )
    other_load(record)
    if settings.threads > host.usable_cores():
        record.warn("threads", f"THREADS={settings.threads} is more than the {host.usable_cores()} cores.", "Lower THREADS.")
    if os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA"):
        record.warn("isa-limited", "ONEDNN_MAX_CPU_ISA limits the CPU's instructions.", "Unset it.")


def other_load(record: Record) -> None:
    """Whether the machine has had other work."""
    load, cores = os.getloadavg()[0], host.usable_cores()
    if load > max(0.5, 0.25 * cores):
        record.warn(
            "other-load",
            f"the machine was busy before the run: load average {load:.1f} on {cores} cores.",
            "Stop other work and run again.",
        )


def after(record: Record) -> None:
    """What the samples themselves show."""
    stats = summarise(record.samples, record.settings.streams)
    if stats.calls < FEW_CALLS:
        record.warn(
            "few-samples",
            f"{stats.calls} calls were timed: percentiles and deviation mean little.",
            "Raise NUM_ITERATIONS to 10 or more.",
        )
    elif stats.cv > UNSTEADY:
        record.warn(
            "unstable-times",
            f"latencies vary by {stats.cv:.1%} (standard deviation over mean).",
            "Stop other work, raise WARM_UP or NUM_ITERATIONS, and run again.",
        )
    if not record.warm_up["settled"]:
        record.warn("warm-up", "times had not settled when warm-up ended.", "Set WARM_UP to a higher number.")
