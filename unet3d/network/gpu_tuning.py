"""Times each convolution of the GPU's network on the device at hand, in every form that can compute it.

A form is timed with what it costs around it: one that does not normalise while loading needs a pass over its input, and in
front of a decoder's first convolution the upsampling writes one tensor of two. So the network's own `Upsampling` and `Block`
are timed, with volumes that are still to be normalised as the network hands them on. Values are made up: no time depends on
them.

This clock is not that of a run: the median of rounds in which several calls follow each other, so that launches are hidden, by
a graph where the device has them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import nn

from unet3d import progress
from unet3d.config.precisions import PRECISIONS
from unet3d.devices.base import Device
from unet3d.errors import UserError
from unet3d.network.gpu import NOTHING, Block, Raw, Upsampling, activated
from unet3d.network.gpu_forms import FORMS, LIBRARY, Geometry, candidates
from unet3d.network.inference import ConvNormAct
from unet3d.network.quantization import LEVELS, MIDDLE, WEIGHT_LEVELS, Ranges
from unet3d.network.triton_ops.layout import new_volume

CALLS, ROUNDS = 3, 15
# On a slow card there are fewer rounds, but so many.
LEAST_ROUNDS, LONGEST_S = 5, 2.0
CALLS_BEFORE = 3  # by which kernels are compiled, and a library chooses its own
WARM_S = 0.05  # after which an idle device has raised its clock
SLOPE, SEED = 0.01, 0
# Values of the made-up volumes lie between, but for some in a million.
LARGEST = 8.0
REASON = 120  # characters


@dataclass(frozen=True)
class Timed:
    """What was found of one convolution: ms of each form that computed it rightly, and why each other was left out."""

    ms: dict[str, float]
    left_out: dict[str, str] = field(default_factory=dict)


def fastest(geometry: Geometry, ms: Mapping[str, float]) -> str:
    """The form with the least time. ms: by form.

    Where products may be of bytes, int8 was asked for: forms that have them go before faster ones that do not.
    """
    in_bytes = [form for form in ms if geometry.in_bytes and form != LIBRARY and FORMS[form].in_bytes]
    return min(in_bytes or ms, key=ms.__getitem__)


class Trial:
    """A convolution with made-up weights, and what it reads: the same in every form."""

    def __init__(self, geometry: Geometry, dtype: torch.dtype, device: torch.device):
        self.geometry, self.dtype, self.device = geometry, dtype, device
        generator = torch.Generator().manual_seed(SEED)
        g = geometry
        conv = nn.Conv3d(g.inputs, g.outputs, g.kernel, g.stride, g.padding, bias=False)
        norm = nn.InstanceNorm3d(g.outputs, affine=True)
        nn.init.normal_(conv.weight, std=(g.inputs * math.prod(g.kernel)) ** -0.5, generator=generator)
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
        self.block = ConvNormAct(conv, norm, SLOPE)
        self.up: nn.ConvTranspose3d | None = None
        self.skip: Raw | tuple[None, None, None] = NOTHING
        channels, extent = g.inputs, g.extent
        if g.upsampled:
            self.up = nn.ConvTranspose3d(g.upsampled, g.sources[0], 2, 2, bias=False)
            nn.init.normal_(self.up.weight, std=g.upsampled**-0.5, generator=generator)
            self.skip = self._volume(g.sources[1], extent)
            channels, extent = g.upsampled, (extent[0] // 2, extent[1] // 2, extent[2] // 2)
        self.source = self._volume(channels, extent) if g.raw else (self._volume(channels, extent)[0], None, None)
        signed = [bool(g.upsampled) and i == 0 for i in range(len(g.sources))]
        self.ranges = Ranges(
            g.sources,
            tuple(LARGEST / (WEIGHT_LEVELS if both else LEVELS) for both in signed),
            tuple(MIDDLE if both else 0 for both in signed),
        )

    def _volume(self, channels: int, extent: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Standard normal numbers, with a scale and shift near those that make them so."""
        generator = torch.Generator(self.device).manual_seed(SEED + channels)
        n = self.geometry.batch
        scale = torch.rand((n, channels), generator=generator, device=self.device) + 0.5
        shift = torch.rand((n, channels), generator=generator, device=self.device) - 0.5
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        return new_volume(n, channels, extent, like).normal_(generator=generator), scale, shift

    def call(self, form: str) -> Callable[[], Raw]:
        """What computes it in this form, with the upsampling that belongs to that."""
        ranges = self.ranges if self.geometry.in_bytes else None
        block = Block(self.block, self.dtype, form, ranges).to(self.device)
        if self.up is None:
            return lambda: block(self.source)
        up = Upsampling(self.up, self.dtype, block).to(self.device)
        skip = self.skip
        return lambda: block(*up(self.source, skip))


class Clock:
    """Times calls on one device."""

    def __init__(self, device: Device):
        self._device = device
        self._by_graph = device.supports_graphs

    @torch.inference_mode()
    def seconds(self, call: Callable[[], Raw]) -> float:
        """Of one call, whose kernels are compiled (`output_of`); RuntimeError where the device has graphs and records none."""

        def several() -> torch.Tensor:
            for _ in range(CALLS - 1):
                call()
            return call()[0]

        run: Callable[[], object] = several
        if self._by_graph:
            graph, _ = self._device.capture(several)
            run = graph.replay
        begun = perf_counter()
        while perf_counter() - begun < WARM_S:
            run()
            self._device.synchronize()
        rounds: list[float] = []
        begun = perf_counter()
        while len(rounds) < LEAST_ROUNDS or (len(rounds) < ROUNDS and perf_counter() - begun < LONGEST_S):
            self._device.synchronize()
            start = perf_counter()
            run()
            self._device.synchronize()
            rounds.append((perf_counter() - start) / CALLS)
        return statistics.median(rounds)

    def without_graph(self) -> bool:
        """Launch calls one by one from here on, all of them alike; False where that was so already."""
        was, self._by_graph = self._by_graph, False
        return was


def distinct(geometries: Iterable[Geometry], cuda: bool) -> list[Geometry]:
    """Each convolution once of which there are forms to choose from, in their order. cuda: as for `candidates`."""
    return [geometry for geometry in dict.fromkeys(geometries) if len(candidates(geometry, cuda)) > 1]


def tune(geometries: Iterable[Geometry], dtype: torch.dtype, device: Device, cuda: bool) -> dict[Geometry, Timed]:
    """Time every form of each distinct convolution. dtype: of the tensors. cuda: as for `candidates`.

    Raises:
        UserError: when the library cannot compute one, so that there is nothing to compare with.
        RuntimeError: when the device's memory is not enough for the library's form.
    """
    todo, clock, found = distinct(geometries, cuda), Clock(device), {}
    with progress.phase("timing each form of each convolution", len(todo), "convolutions") as phase:
        for geometry in todo:
            phase.say(str(geometry))
            found[geometry] = time_forms(geometry, dtype, device, clock, cuda)
            phase.advance()
    device.empty_cache()
    return found


def time_forms(geometry: Geometry, dtype: torch.dtype, device: Device, clock: Clock, cuda: bool) -> Timed:
    """Time one convolution in every form; see `tune`."""
    trial = Trial(geometry, dtype, device.torch_device)
    expected, seconds = _library(trial, device, clock)
    ms, left_out = {LIBRARY: 1e3 * seconds}, {}
    for form in candidates(geometry, cuda)[1:]:
        try:
            call = trial.call(form)
            difference, limit = relative_error(output_of(call, device), expected), limit_of(geometry, form, dtype)
            if not difference <= limit:  # NaN too
                left_out[form] = f"its result differs from the library's by {difference:.2g}, the limit is {limit:g}"
                continue
            ms[form] = 1e3 * clock.seconds(call)
        except Exception as error:  # noqa: BLE001 - of a compiler, a driver or Triton; it is told, and the library's form stays
            left_out[form] = reason(error)
    return Timed(ms, left_out)


def limit_of(geometry: Geometry, form: str, dtype: torch.dtype) -> float:
    """How far a form's output may be from the library's: far less than a whole network's, far more than one rounding."""
    in_bytes = geometry.in_bytes and FORMS[form].in_bytes
    name = "int8" if in_bytes else next(name for name, known in PRECISIONS.items() if known.dtype() == dtype)
    return PRECISIONS[name].error_limit / 4


def relative_error(output: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over that of what is expected [N, C, D, H, W]; infinite where the shapes differ."""
    if output.shape != expected.shape:
        return math.inf
    norm = torch.linalg.vector_norm
    return float(norm(output - expected, dtype=torch.float32) / norm(expected, dtype=torch.float32))


def reason(error: BaseException) -> str:
    """An error in one line: its kind, and the first words that it has."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:REASON].rstrip(": ")


def _library(trial: Trial, device: Device, clock: Clock) -> tuple[torch.Tensor, float]:
    """The library's output and its seconds."""
    try:
        call = trial.call(LIBRARY)
        expected = output_of(call, device)
        try:
            return expected, clock.seconds(call)
        except RuntimeError as error:
            # A library that can be recorded nowhere is launched one by one in a run too.
            if device.is_out_of_memory(error) or not clock.without_graph():
                raise
            return expected, clock.seconds(call)
    except RuntimeError as error:
        if device.is_out_of_memory(error):
            raise
        raise UserError(
            f"TUNE=yes: the library cannot compute the convolution {trial.geometry} ({reason(error)}), which other forms are "
            "compared with; use TUNE=no"
        ) from None


@torch.inference_mode()
def output_of(call: Callable[[], Raw], device: Device) -> torch.Tensor:
    """The normalised and activated output of a call, whose kernels are compiled from then on."""
    for _ in range(CALLS_BEFORE - 1):
        call()
    output = activated(call(), SLOPE)
    device.synchronize()
    return output
