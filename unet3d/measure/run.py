"""A run, step by step. Each step returns what it found; this is where it is put into the record."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from unet3d import places, progress
from unet3d.devices import cpu_time, host
from unet3d.devices.base import Device
from unet3d.engines.base import Engine
from unet3d.errors import OutOfMemory
from unet3d.measure import loop, one_at_a_time, prepare, rates
from unet3d.measure.collector import collecting
from unet3d.measure.prepare import Input, Warm
from unet3d.measure.telemetry import watch
from unet3d.planning import mlperf
from unet3d.planning.group import Group, SingleProcess
from unet3d.planning.mlperf import LoadGenRun
from unet3d.planning.plan import Plan
from unet3d.results import advice
from unet3d.results.console import Console
from unet3d.results.facts import Dice, PeakMemory
from unet3d.results.record import Record, Section
from unet3d.results.timing import percentile

if TYPE_CHECKING:
    import torch

    from unet3d.measure.accuracy import Cases, Predictions
    from unet3d.measure.compliance import Kept

Answer = TypeVar("Answer")


def run(plan: Plan, record: Record, out: Console, group: Group | None = None) -> None:
    """Carry out a plan in this process, alone or as one rank of a group, and fill in the record.

    Raises:
        BenchmarkError: UserError for what the user can mend, MismatchError when something else ran than was asked
            for, OutOfMemory.
    """
    group = group or SingleProcess()
    record.environment = {**environment(), "hardware": machine(plan.device, record.environment.get("hardware"))}
    try:
        with progress.shown_on(out):
            _steps(plan, record, out, group)
    except Exception as error:
        if plan.device.is_out_of_memory(error):
            raise OutOfMemory(prepare.memory_advice(plan, record.weights)) from error
        raise


def environment() -> Section:
    """Commit, versions and variables that a result is of."""
    commit, dirty = host.git_state(places.ROOT)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": host.versions(),
        "variables": host.variables(),
    }


def machine(device: Device, seen: Section | None) -> Section:
    """The machine and the device that runs. seen: the machine as a process saw it that was not bound to some of its cores."""
    return host.with_device(seen or host.hardware(), device)


def _steps(plan: Plan, record: Record, out: Console, group: Group) -> None:
    group.working("loading the weights")
    network = prepare.load_network(plan, out)
    record.weights, record.tflop_per_volume = network.facts, network.tflop_per_volume
    record.warn(*network.warnings)
    if group.local_rank == 0:
        prepare.need_memory(plan, network.facts.base_features, group.local_size)
    group.barrier()

    given = prepare.choose_input(plan, out, group)
    record.data = given.facts
    checked = prepare.load_engine(plan, network.reference, out, group)
    record.check, record.effective = checked.agreement, checked.effective
    record.warn(*checked.warnings)
    expected, warnings = prepare.expect_full_size(plan, network, group)
    record.warn(*warnings)
    # From here on only the comparison of int8's Dice needs it: what is not held is not counted as the engine's memory.
    reference = network.reference if plan.settings.precision == "int8" and given.cases else None
    del network
    engine = checked.engine
    try:
        warm = prepare.warm_up(plan, checked, given.volumes, out, group, expected)
        record.full_size_check = warm.full_size
        record.load_seconds, record.warm_up = warm.load_seconds, warm.warm_up
        record.warn(*warm.warnings)
        kept = _kept(plan, record, given)
        look = kept.look if kept else None
        if plan.settings.scenario == mlperf.DEFAULT:
            _default_loop(plan, record, given, engine, out, group, look)
        else:
            _loadgen(plan, record, given, engine, warm, out, look)
        record.memory = _largest(prepare.peak_memory(plan, engine), warm.memory)
        # Of ranks that share a device none is alone; LoadGen says itself how calls follow each other.
        if plan.settings.scenario == mlperf.DEFAULT and group.size == 1 and engine.depth > 1:
            staged = engine.stage(given.volumes.batch(0))
            record.one_at_a_time_ms = one_at_a_time.latencies_ms(engine, staged)
            record.figures.append(("latency_one_at_a_time", percentile(record.one_at_a_time_ms, 50), "ms"))
        executed = engine.executed()
        if kept is not None:
            _compliance(plan, record, given, engine, kept, out)
        if plan.settings.profile and group.rank == 0:
            from unet3d.measure import profile

            staged = engine.stage(given.volumes.batch(0))
            alone = [1e3 * sample.latency for sample in record.samples] if plan.settings.streams == 1 else None
            record.profile, doubts = profile.report(engine, staged, plan.settings.output_dir, out, alone)
            record.warn(*doubts)
    finally:
        engine.close()
    if reference is not None and record.accuracy and given.cases:
        record.accuracy = _int8_loss(plan, record, reference, given.cases, record.accuracy, out)
    record.warn(*advice.after(record.samples, plan.settings.streams, warm.warm_up.settled))
    if group.size == 1:
        record.executed_tflop = _per_volume(executed, plan, record.tflop_per_volume)
        record.ceilings, warnings = rates.beside_run(plan, record.executed_tflop)
        record.warn(*warnings)


def _per_volume(executed: Mapping[str, float] | None, plan: Plan, nominal: float) -> dict[str, float]:
    """1e12 FLOP of a volume by the type of the products. executed: an engine's, of a batch."""
    if executed is None:
        return {plan.settings.precision: nominal}
    return {products: flop / 1e12 / plan.settings.batch_size for products, flop in executed.items()}


def _kept(plan: Plan, record: Record, given: Input) -> Kept | None:
    """Keeps some outputs of the timed calls, where MLPerf's checks are asked for."""
    if not plan.settings.compliance:
        return None
    from unet3d.measure.compliance import Kept

    settings, calls = plan.settings, plan.settings.num_iterations
    if settings.scenario != mlperf.DEFAULT:
        calls = _loadgen_run(plan, record, given).calls(settings.batch_size)
    return Kept(calls, settings.seed)


def _compliance(plan: Plan, record: Record, given: Input, engine: Engine, kept: Kept, out: Console) -> None:
    from unet3d.measure import compliance

    record.compliance = compliance.check(plan.settings, engine, given, kept, record.samples, record.accuracy, out)
    compliance.must_pass(record.compliance)


def _default_loop(
    plan: Plan, record: Record, given: Input, engine: Engine, out: Console, group: Group, look: loop.Look | None
) -> None:
    settings = plan.settings
    if given.cases is not None:
        from unet3d.measure import accuracy

        predictions = accuracy.predict(engine, given.cases, settings, group)
        if group.rank == 0:
            record.accuracy = _score(record, given.cases, predictions, out)
    record.planned_calls = settings.num_iterations
    with collecting(record, out, group) as keep:
        record.window_start = _watched(
            plan, record, lambda: loop.measure(plan, engine, given.volumes, group, keep, look), out, group
        )


def _loadgen(
    plan: Plan, record: Record, given: Input, engine: Engine, warm: Warm, out: Console, look: loop.Look | None
) -> None:
    from unet3d.measure.loadgen import accuracy as loadgen_accuracy
    from unet3d.measure.loadgen import performance

    settings = plan.settings
    asked = _loadgen_run(plan, record, given)
    section: Section = {}
    if given.cases is not None:
        predictions, theirs = loadgen_accuracy.predict(asked, settings, engine, given.cases, out)
        record.accuracy = _score(record, given.cases, predictions, out)
        compared = loadgen_accuracy.compare(record.accuracy, theirs, out)
        section |= compared.section
        record.figures += compared.told.figures
        record.warn(*compared.told.warnings)
    record.planned_calls = asked.calls(settings.batch_size)
    latencies = warm.warm_up.latency_ms
    expected_s = latencies[-1] / 1e3 if latencies else 1.0
    with collecting(record, out, SingleProcess()) as keep:
        folder = _watched(
            plan,
            record,
            lambda: performance.measure(asked, settings, engine, given, expected_s, keep, out, look),
            out,
            SingleProcess(),
        )
    record.planned_calls = len(record.samples)
    measured = performance.read_log(asked, folder, record.samples, out)
    record.loadgen = section | measured.section
    record.figures += measured.told.figures
    record.warn(*measured.told.warnings)


def _loadgen_run(plan: Plan, record: Record, given: Input) -> LoadGenRun:
    samples = len(given.cases.names) if given.cases else 1
    weights = record.weights.kind if record.weights else None
    return mlperf.loadgen_run(plan.settings, samples, weights, bool(given.facts.standard_names))


def _watched(plan: Plan, record: Record, measure: Callable[[], Answer], out: Console, group: Group) -> Answer:
    """Measure beside the telemetry and see who has the CPUs; what was read and the samples so far are in the record however
    that ends."""
    watched = watch.Watched()
    # Other ranks are no strangers: all of this machine's are children of the process that started them.
    root = os.getpid() if group.size == 1 else os.getppid()
    try:
        with watch.watching(plan.device, out, plan.settings.telemetry and group.rank == 0) as watched:
            before = cpu_time.read(root)
            try:
                return measure()
            finally:
                if group.local_rank == 0:
                    record.disturbance = seen = cpu_time.between(before, cpu_time.read(root))
                    record.warn(*(advice.disturbed(seen, plan.settings) if seen else ()))
    finally:
        record.samples.sort(key=lambda sample: sample.start)
        record.telemetry, told = watch.section(watched, record.samples, group.size)
        record.figures += told.figures
        record.warn(*told.warnings)


def _score(record: Record, cases: Cases, predictions: Predictions, out: Console) -> Dice:
    from unet3d.measure import accuracy

    record.warn(*accuracy.keep_slices(record.settings.output_dir, cases, predictions))
    kind = record.weights.kind if record.weights else "unknown"
    return accuracy.summarise(predictions.scores, cases.names, kind, out)


def _int8_loss(plan: Plan, record: Record, reference: torch.nn.Module, cases: Cases, dice: Dice, out: Console) -> Dice:
    from unet3d.measure import int8_loss

    loss = int8_loss.compare(dice, reference, cases, plan.request.cache_dir, out)
    record.figures += loss.told.figures
    record.warn(*loss.told.warnings)
    return loss.dice


def _largest(peak: PeakMemory, before: PeakMemory | None) -> PeakMemory:
    """Of two windows that follow on each other."""
    if before is None:
        return peak
    device = [memory for memory in (peak.peak_device_bytes, before.peak_device_bytes) if memory is not None]
    return PeakMemory(max(peak.peak_host_bytes, before.peak_host_bytes), max(device, default=None))
