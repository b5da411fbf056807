"""How long a sweep will take: by what each configuration took before, otherwise by the machine's rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet3d import progress
from unet3d.commands import check
from unet3d.commands.sweep import resume
from unet3d.commands.sweep.conduct import Planned
from unet3d.config.precisions import PRECISIONS
from unet3d.config.values import Settings
from unet3d.devices.registry import PLATFORMS
from unet3d.measure import rates
from unet3d.network import flops
from unet3d.network.plans import random_plans
from unet3d.progress import duration

# What a process takes to start, load and check the network, and the calls before the timed ones where they settle soon.
START_S, WARM_UP = 20.0, 4


def lines(folder: Path, planned: Sequence[Planned]) -> list[str]:
    """A line a configuration with its time and command, and one of them all. folder: OUTPUT_DIR/sweep."""
    known = {one.name: resume.read_state(folder / one.name).get("seconds") for one in planned}
    seconds = {one.name: known[one.name] or by_rates(one.settings) for one in planned}
    told = [
        f"{one.name}: about {duration(seconds[one.name])}{', as before' if known[one.name] else ''}: {one.command}"
        for one in planned
    ]
    guessed = sum(not value for value in known.values())
    return [
        *told,
        f"All {len(planned)} take about {duration(sum(seconds.values()))}; "
        + (f"{guessed} of them are a guess from this machine's rates" if guessed else "as they did before"),
    ]


def by_rates(settings: Settings) -> float:
    """Seconds of a run whose calls take as long as `--check` says they do without overlap and fusion."""
    kind, shape = PLATFORMS[settings.platform], (4, *settings.volume_shape)
    with progress.phase(f"measuring {settings.platform} {settings.precision}"):
        top = rates.measure(kind, settings.precision, settings.threads)
    layers = flops.layers(random_plans(), shape, PRECISIONS[settings.precision].bytes)
    # A precision without a rate of its own has the volume read and written at least.
    ceiling = top.of(settings.precision)
    call = check.bounds(layers, ceiling.tflops, top.copy_gbs).plain if ceiling else 0.0
    warm_up = WARM_UP if settings.warm_up is None else settings.warm_up
    return START_S + call * settings.batch_size * (settings.num_iterations + warm_up)
