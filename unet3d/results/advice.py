"""Warnings about a run: each has a name, says what was seen, and what to do."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence

from unet3d.config.misspelt import nearly_settings
from unet3d.config.values import Settings
from unet3d.devices import cpu_time, host
from unet3d.devices.cpu_time import Disturbance
from unet3d.errors import shown
from unet3d.results.facts import RunWarning
from unet3d.results.timing import UNSTEADY, Sample, steady, summarise
from unet3d.workload import SHAPE

FEW_CALLS = 5
LOOK_S = 1.0
# Share of the CPUs' time that others may have without a warning; where a GPU computes, the CPUs only feed it.
OTHERS_ON_CPU, OTHERS_BESIDE_GPU = 0.05, 0.5
# The counters have steps of 0.01 s, in which the system itself is at work too: less than this is no disturbance.
LEAST_S = 0.1
# By which a longer window is advised than is needed: later calls may be faster.
SPARE = 1.2


def before(settings: Settings) -> Iterator[RunWarning]:
    """What can be known before timing: volume, frequency governor, threads."""
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


def other_load(settings: Settings) -> Iterator[RunWarning]:
    """Whether the machine has other work: a look at the CPUs for a second, while this process has nothing to do."""
    before = cpu_time.read()
    time.sleep(LOOK_S)
    seen = cpu_time.between(before, cpu_time.read())
    if seen and disturbs(seen, settings.platform):
        yield RunWarning(
            "other-load",
            f"before the run other work had {seen.others_share:.0%} of the {seen.cpus} CPUs.",
            "Stop other work and run again.",
        )


def disturbed(seen: Disturbance, settings: Settings) -> Iterator[RunWarning]:
    """What others did to the CPUs while the run was measured."""
    if disturbs(seen, settings.platform):
        stolen = f", {seen.stolen_share:.0%} taken by the hypervisor for other machines" if seen.stolen_share >= 0.01 else ""
        yield RunWarning(
            "disturbed",
            f"while the run was measured other work had {seen.others_share:.0%} of its {seen.cpus} CPUs{stolen}: "
            "its times are not those of an idle machine.",
            "Stop other work and run again.",
        )
    if seen.throttled_times and seen.throttled_s > LEAST_S:
        yield RunWarning(
            "throttled",
            f"a CPU limit stopped the run {seen.throttled_times} times while it was measured, {seen.throttled_s:.1f} s in all.",
            "Raise the container's limit (docker run --cpus), or lower THREADS.",
        )


def disturbs(seen: Disturbance, platform: str) -> bool:
    """Whether others had so much of the CPUs that times measured on this platform are not those of an idle machine."""
    limit = OTHERS_ON_CPU if platform == "CPU" else OTHERS_BESIDE_GPU
    return seen.others_share > limit and seen.others_cpu_s > LEAST_S


def short_window(window_s: float, needed_s: float, calls: int) -> RunWarning:
    """That counters need a longer window than this one of so many calls; both in seconds."""
    wanted = calls * SPARE * needed_s / window_s
    step = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return RunWarning(
        "short-window",
        f"{window_s:.2g} s were measured, in which counters of energy, power or utilisation tell too little: their figures are "
        f"left out, they need {needed_s:.2g} s.",
        f"Raise NUM_ITERATIONS to about {math.ceil(wanted / step) * step}.",
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
