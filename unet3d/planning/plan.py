"""From the command line and the environment to a plan that can run here, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unet3d import installed
from unet3d.config import parse
from unet3d.config.values import Asked, Settings
from unet3d.devices.base import Device
from unet3d.engines import registry
from unet3d.engines.base import Request
from unet3d.errors import UserErrors
from unet3d.planning import placement, resolve
from unet3d.planning.placement import Placement
from unet3d.planning.refusals import impossible
from unet3d.workload import input_shape


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a run begins.

    places: one for each rank of this machine where torchrun starts several, else empty. place: where a single process
    is bound, None where it may run anywhere. warnings: (name, text) of what has to be said about the settings.
    """

    settings: Settings
    device: Device
    request: Request
    places: tuple[Placement, ...] = ()
    place: Placement | None = None
    warnings: tuple[tuple[str, str], ...] = ()

    @property
    def needs_ranks(self) -> bool:
        """Whether torchrun has to start processes for it."""
        return bool(self.places)


def plan(argv: Sequence[str], environ: Mapping[str, str]) -> Plan:
    """The plan that flags and variables describe.

    Raises:
        UserErrors: everything that is wrong, a line each.
    """
    return make(ask(argv, environ))


def ask(argv: Sequence[str], environ: Mapping[str, str]) -> Asked:
    """What the user asks for; neither the machine is looked at nor anything heavy imported.

    Raises:
        UserErrors: everything that is wrong with it in itself, a line each.
    """
    given, problems = parse.parse(argv, environ)
    asked = Asked.of(given)
    problems += impossible(asked)
    if problems:
        raise UserErrors(problems)
    return asked


def make(asked: Asked) -> Plan:
    """The plan for settings that are possible in themselves (`impossible` says nothing).

    Raises:
        UserErrors: what this machine or the engine on it cannot run, a line each.
    """
    if reason := installed.why_torch_cannot():
        raise UserErrors([reason])
    resolved = resolve.complete(asked)
    settings = resolved.settings
    asked_of_engine = request(settings, resolved.device)
    registry.must_run(asked_of_engine)
    several = placement.needs_ranks(settings)
    return Plan(
        settings=settings,
        device=resolved.device,
        request=asked_of_engine,
        places=tuple(placement.places_of_ranks(settings)) if several else (),
        place=None if several else placement.place_of_single(settings, resolved.device),
        warnings=resolved.warnings,
    )


def of_rank(settings: Settings, device: Device, place: Placement, warnings: Sequence[tuple[str, str]]) -> Plan:
    """The plan of one of several ranks, which sees one device and has its share of the threads."""
    own = replace(settings, threads=place.threads)
    return Plan(settings=own, device=device, request=request(own, device), warnings=tuple(warnings))


def request(settings: Settings, device: Device) -> Request:
    """What the settings ask of an engine.

    Raises:
        UserError: when int8 has nothing to be calibrated with.
    """
    volumes, source = None, "none"
    if settings.precision == "int8":
        from unet3d.brats import calibration

        chosen = calibration.choose(
            settings.volume_shape, settings.fold, settings.seed, settings.dataset_dir, settings.preprocessed_dir
        )
        volumes, source = chosen.volumes, chosen.source
    return Request(
        engine=settings.engine,
        device=device,
        precision=settings.precision,
        jit=settings.jit,
        amp=settings.amp,
        ipex=settings.ipex,
        network=settings.network,
        tune=settings.tune,
        onnx_provider=settings.onnx_provider,
        shape=input_shape(settings.batch_size, settings.volume_shape),
        streams=settings.streams,
        threads=settings.threads,
        input_on_device=settings.input_on_device,
        profile=settings.profile,
        calibration=volumes,
        calibration_source=source,
    )
