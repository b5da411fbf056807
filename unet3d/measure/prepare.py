"""Everything before the first timed call: the network, its volumes, and an engine that is checked and warmed up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet3d.brats import weights
from unet3d.brats.volumes import CaseVolumes, RandomVolumes, Volumes
from unet3d.devices import host
from unet3d.engines import registry
from unet3d.engines.base import Effective, Engine
from unet3d.errors import MismatchError, OutOfMemory
from unet3d.measure import against_fp32, full_size
from unet3d.measure.loop import timed
from unet3d.planning import memory
from unet3d.planning.group import Group
from unet3d.planning.plan import Plan
from unet3d.results import advice
from unet3d.results.console import Console
from unet3d.results.facts import Agreement, PeakMemory, RunWarning, VolumesFacts, WarmUpFacts, WeightsFacts
from unet3d.results.timing import WarmUp
from unet3d.workload import MODALITIES

if TYPE_CHECKING:
    import torch

    from unet3d.measure.accuracy import Cases

BASE_FEATURES = 32  # of MLPerf's network, for advice where no weights are loaded yet


@dataclass(frozen=True)
class Network:
    """nnU-Net's own network in fp32 on the CPU with the weights that were asked for."""

    reference: torch.nn.Module
    facts: WeightsFacts
    tflop_per_volume: float
    warnings: tuple[RunWarning, ...] = ()


@dataclass(frozen=True)
class Input:
    """Volumes to time, and in accuracy mode the cases to score."""

    volumes: Volumes
    facts: VolumesFacts
    cases: Cases | None = None


@dataclass(frozen=True)
class Checked:
    """The very engine that is timed: loaded, and found to compute what was asked for."""

    engine: Engine
    agreement: Agreement
    effective: Effective
    warnings: tuple[RunWarning, ...]


@dataclass(frozen=True)
class Warm:
    """What is known of an engine after it was compiled and warmed up.

    full_size: the agreement with fp32 at full size, where it was checked. memory: the peak before that check, whose own volume
    and logits are no part of what is measured.
    """

    load_seconds: dict[str, float]
    warm_up: WarmUpFacts
    warnings: tuple[RunWarning, ...]
    full_size: Agreement | None = None
    memory: PeakMemory | None = None


def load_network(plan: Plan, out: Console) -> Network:
    """Load the weights.

    Raises:
        UserError: when they cannot be read.
    """
    from unet3d.network import flops, reference
    from unet3d.network.plans import architecture

    settings = plan.settings
    with out.phase("reading the weights"):
        loaded = weights.load(settings.weights, fold=settings.fold)
        network = reference.build(loaded.plans, loaded.state_dict)
    facts = WeightsFacts(
        kind=loaded.kind,
        sha256=loaded.sha256,
        path=loaded.path,
        base_features=architecture(loaded.plans).base_features,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )
    tflop = flops.flops(network, (len(MODALITIES), *settings.volume_shape)) / 1e12
    out.info(f"weights: {facts.kind}, {facts.parameters:,} parameters, {tflop:.3g} TFLOP per volume")
    warnings: tuple[RunWarning, ...] = ()
    if facts.kind == "random" and not settings.dummy:
        warnings = (
            RunWarning(
                "random-weights",
                "the weights are random: Dice says nothing about the trained network.",
                "Run ./setup.sh where Zenodo can be reached, or use WEIGHTS=sample.",
            ),
        )
    return Network(network, facts, tflop, warnings)


def choose_input(plan: Plan, out: Console, group: Group) -> Input:
    """Random volumes, or the fold's cases, preprocessed where they are not yet.

    Raises:
        UserError: as `unet3d.measure.accuracy.prepare`.
    """
    settings = plan.settings
    if settings.dummy:
        facts = VolumesFacts(kind="random", seed=settings.seed, distribution="standard normal")
        volumes = RandomVolumes(settings.batch_size, settings.volume_shape, settings.seed + group.rank)
        return Input(volumes, facts)
    from unet3d.measure import accuracy

    cases, facts = accuracy.prepare(settings, out, group)
    return Input(CaseVolumes(cases.store, cases.names, settings.batch_size), facts, cases)


def load_engine(plan: Plan, reference: torch.nn.Module, out: Console, group: Group) -> Checked:
    """An engine whose output on a small volume was compared with the reference's in fp32.

    Raises:
        UserErrors: when the engine cannot run here after all.
        MismatchError: when something else ran than was asked for, or its output is far from fp32's.
    """
    settings = plan.settings
    told = [RunWarning(name, text) for name, text in (*plan.device.warnings(settings.precision), *plan.warnings)]
    told += advice.before(settings)
    if group.size == 1:  # of several ranks each is a load to the others; the process that starts them looks before
        told += advice.other_load(settings)
    engine = registry.create(plan.request)
    group.working("loading the network")
    with out.phase("loading the network"):
        engine.load(reference)
    group.working("checking the output")
    with out.phase("checking the output against fp32"):
        agreement = against_fp32.check(engine, reference, settings.seed)
    out.info(
        f"check against fp32: relative error {agreement.relative_error:.2g}, labels agree in "
        f"{agreement.label_agreement:.2%} of voxels"
    )
    effective = engine.effective()
    must_match(plan, effective)
    if source := effective.details.get("convolution_forms_from"):
        out.info(f"forms of the convolutions: {source}")
    return Checked(engine, agreement, effective, tuple(told))


def expect_full_size(plan: Plan, network: Network, group: Group) -> tuple[full_size.Expected | None, list[RunWarning]]:
    """fp32's logits for the check at full size; None where there is none. One rank checks for all, which run the same."""
    settings = plan.settings
    if group.rank != 0 or not full_size.applies(settings):
        return None, []
    if warnings := full_size.lacks_memory(settings, network.facts.base_features):
        return None, warnings
    group.working("computing fp32's logits at full size")
    return full_size.expected(network.reference, settings.volume_shape, plan.request.cache_dir), []


def warm_up(
    plan: Plan, checked: Checked, volumes: Volumes, out: Console, group: Group, expected: full_size.Expected | None = None
) -> Warm:
    """Compile for the volumes' shape, compare with fp32 at that size, and call until the latencies settle, or as often as
    WARM_UP says.

    Raises:
        MismatchError: when the output at full size is far from fp32's.
    """
    engine = checked.engine
    # Weights in other forms, which are free by now, are not the measured network's memory.
    host.give_back_freed_memory()
    plan.device.reset_peak_memory()
    group.working("compiling")
    with out.phase("compiling for the volume's shape"):
        engine.compile(engine.stage(volumes.batch(0)))
    agreement, memory_before, warnings = check_full_size(plan, checked, out, group, expected)
    # Staged only now: the check has volumes of its own.
    staged = engine.stage(volumes.batch(0))
    calls = WarmUp(plan.settings.warm_up)
    with out.phase("warming up") as phase:
        while not calls.done:
            group.working("warming up")
            phase.say(f"call {len(calls.latencies) + 1} of {calls.calls or f'at most {calls.most}'}")
            calls.latencies.append(timed(engine.infer, staged)[1])
    out.info(f"warm-up: {calls.rule}")
    facts = WarmUpFacts(
        calls=len(calls.latencies),
        rule=calls.rule,
        settled=calls.settled,
        latency_ms=[1e3 * seconds for seconds in calls.latencies],
    )
    warnings += [RunWarning(name, text) for name, text in engine.warnings]
    return Warm(dict(engine.load_seconds), facts, tuple(warnings), agreement, memory_before)


def check_full_size(
    plan: Plan, checked: Checked, out: Console, group: Group, expected: full_size.Expected | None
) -> tuple[Agreement | None, PeakMemory | None, list[RunWarning]]:
    """The agreement of the compiled engine with fp32 at full size, and the peak of memory before that; None where nothing is
    expected.

    Raises:
        MismatchError: when the output is far from fp32's.
    """
    if expected is None:
        return None, None, []
    before = peak_memory(plan, checked.engine)
    group.working("checking the output at full size")
    with out.phase("checking the output at full size"):
        agreement, warnings = full_size.check(checked.engine, expected, checked.agreement)
    out.info(
        f"check at full size: relative error {agreement.relative_error:.2g}, labels agree in "
        f"{agreement.label_agreement:.2%} of {full_size.VOXELS} voxels"
    )
    host.give_back_freed_memory()
    plan.device.reset_peak_memory()
    return agreement, before, warnings


def peak_memory(plan: Plan, engine: Engine) -> PeakMemory:
    """Most memory in use at one time since the last reset; of what an engine takes beside PyTorch, what it holds."""
    on_device = None if plan.settings.platform == "CPU" else plan.device.peak_memory() + engine.own_device_memory()
    return PeakMemory(host.peak_memory(), on_device)


def must_match(plan: Plan, effective: Effective) -> None:
    """What ran must be what was asked for.

    Raises:
        MismatchError: naming every difference.
    """
    settings = plan.settings
    pairs = (("PRECISION", settings.precision, effective.precision), ("JIT", settings.jit, effective.jit))
    wrong = [f"{name}={asked} was asked for, {ran} ran" for name, asked, ran in pairs if asked != ran]
    layout = registry.engine_class(settings.engine).fast_layout
    if settings.network == "fast" and layout is not None and effective.layout != layout:
        wrong.append(f"the layout should be {layout}, {effective.layout} ran")
    if plan.device.kind not in effective.device.casefold():
        wrong.append(f"PLATFORM={settings.platform} was asked for, it ran on {effective.device}")
    if wrong:
        raise MismatchError("; ".join(wrong) + ": no number is reported. Please report this with your settings")


def need_memory(plan: Plan, base_features: int, ranks: int) -> None:
    """See that the host has the memory that the ranks on it need at least; a GPU's own says so itself.

    Raises:
        OutOfMemory: with what to lower.
    """
    if plan.settings.platform != "CPU":
        return
    needed, free = ranks * _needed(plan, base_features), host.available_memory()
    if needed > free:
        for_ranks, lower = ("", "") if ranks == 1 else (f" for {ranks} ranks", "INSTANCES, ")
        raise OutOfMemory(
            f"about {needed / 2**30:.1f} GiB of memory are needed{for_ranks}, {free / 2**30:.1f} GiB are "
            f"free; lower {lower}BATCH_SIZE or STREAMS, or use PRECISION=bf16"
        )


def memory_advice(plan: Plan, facts: WeightsFacts | None) -> str:
    """What to say when the device's memory was not enough."""
    needed, properties = _needed(plan, facts.base_features if facts else BASE_FEATURES), plan.device.properties()
    return (
        f"out of memory on {properties.name} ({properties.memory_bytes / 2**30:.1f} GiB): BATCH_SIZE="
        f"{plan.settings.batch_size} in {plan.settings.precision} needs at least {needed / 2**30:.1f} GiB; "
        "lower BATCH_SIZE or STREAMS, or use PRECISION=bf16 or fp16"
    )


def _needed(plan: Plan, base_features: int) -> int:
    settings = plan.settings
    return memory.needed(settings.precision, settings.volume_shape, settings.batch_size, settings.streams, base_features)
