"""One run: weights, volumes, engine, check, warm-up, the measured calls, Dice; everything goes into the record."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from unet3d import places
from unet3d.brats.calibration import choose as choose_calibration
from unet3d.brats.volumes import CaseVolumes, RandomVolumes
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import host
from unet3d.engines import registry
from unet3d.engines.base import Engine, Request
from unet3d.errors import MismatchError, OutOfMemory
from unet3d.measure import against_fp32
from unet3d.measure.telemetry import watch
from unet3d.planning.resolve import Settings
from unet3d.ranks import Solo
from unet3d.results import advice, console, document
from unet3d.results.console import Console
from unet3d.results.record import Record
from unet3d.results.timing import Sample, WarmUp, summarise, timed


def run(record: Record, out: Console, group: Solo) -> None:
    """Carry out the run that the record's settings describe.

    Raises:
        BenchmarkError: UserError for what the user can mend, MismatchError when something else ran than was asked
            for, OutOfMemory.
    """
    settings = record.settings
    record.environment.update(_environment())
    try:
        group.working("loading the weights")
        reference = _load_weights(record, out)
        if group.local_rank == 0:
            _need_memory(record, group.local_size)
        group.barrier()
        source, scored = _volumes(record, out, group)
        engine = _prepare(record, out, reference, source, group)
        try:
            if settings.scenario != "Default":
                from unet3d.measure.loadgen import run as loadgen

                loadgen.run(record, out, engine, source, scored)
            else:
                if scored is not None:
                    from unet3d.measure import accuracy

                    record.accuracy = accuracy.predict_and_score(engine, scored, record, out, group)
                with watch.watching(record, out, group):
                    _measure(record, out, group, engine, source)
            if settings.profile and group.rank == 0:
                from unet3d.measure import profile

                profile.report(engine, engine.stage(source.batch(0)), record, out)
        finally:
            engine.close()
        if settings.precision == "int8" and record.accuracy:
            from unet3d.measure import int8_loss

            int8_loss.compare(record, out, reference, scored, engine.request.cache_dir)
        advice.after(record)
        if group.size == 1:
            from unet3d.measure import rates

            rates.note(record)
    except Exception as error:
        if settings.device.is_out_of_memory(error):
            raise OutOfMemory(_memory_advice(record)) from error
        raise


def _environment() -> dict[str, Any]:
    commit, dirty = host.git_state(places.ROOT)
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "hardware": host.hardware(),
        "versions": host.versions(),
        "variables": host.variables(),
    }


def _load_weights(record: Record, out: Console) -> Any:
    """nnU-Net's own network in fp32 on the CPU with the weights that were asked for."""
    from unet3d.brats import weights
    from unet3d.network import flops, reference

    settings = record.settings
    loaded = weights.load(settings.weights, fold=settings.fold)
    network = reference.build(loaded.plans, loaded.state_dict)
    record.weights = {
        "kind": loaded.kind,
        "sha256": loaded.sha256,
        "path": loaded.path,
        "base_features": loaded.plans["base_num_features"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    record.tflop_per_volume = flops.flops(network, (4, *settings.volume_shape)) / 1e12
    out.info(
        f"weights: {loaded.kind}, {record.weights['parameters']:,} parameters, {record.tflop_per_volume:.3g} TFLOP a volume"
    )
    if loaded.kind == "random" and not settings.dummy:
        record.warn(
            "random-weights",
            "the weights are random: Dice says nothing about the trained network.",
            "Run ./setup.sh where Zenodo can be reached, or use WEIGHTS=sample.",
        )
    return network


def _volumes(record: Record, out: Console, group: Solo) -> tuple[Any, Any]:
    """Volumes to time, and in accuracy mode the cases of this rank to score."""
    settings = record.settings
    if settings.dummy:
        record.data = {"kind": "random", "seed": settings.seed, "distribution": "standard normal"}
        return RandomVolumes(settings.batch_size, settings.volume_shape, settings.seed + group.rank), None
    from unet3d.measure import accuracy

    cases = accuracy.prepare(record, out, group)
    return CaseVolumes(cases.store, cases.names, settings.batch_size), cases


def request(settings: Settings) -> Request:
    """What the settings ask of an engine. Raises UserError when int8 has nothing to be calibrated with."""
    chosen = {}
    if settings.precision == "int8":
        calibration = choose_calibration(settings)
        chosen = {"calibration": calibration.volumes, "calibration_source": calibration.source}
    return Request(
        engine=settings.engine,
        device=settings.device,
        precision=settings.precision,
        jit=settings.jit,
        amp=settings.amp,
        ipex=settings.ipex,
        network=settings.network,
        shape=(settings.batch_size, 4, *settings.volume_shape),
        streams=settings.streams,
        threads=settings.threads,
        input_on_device=settings.input_on_device,
        profile=settings.profile,
        **chosen,
    )


def _prepare(record: Record, out: Console, reference: Any, source: Any, group: Solo) -> Engine:
    """An engine that is loaded, checked, compiled and warmed up: the very object that is timed."""
    settings = record.settings
    for name, text in settings.device.warnings(settings.precision):
        record.warn(name, text)
    advice.before(record)
    engine = registry.create(request(settings))
    out.info("loading the network")
    group.working("loading the network")
    engine.load(reference)
    group.working("checking the output")
    record.check = against_fp32.against_fp32(engine, reference, settings.seed).as_dict()
    out.info(
        f"check against fp32: relative error {record.check['relative_error']:.2g}, labels agree in "
        f"{record.check['label_agreement']:.2%} of voxels"
    )
    record.effective = vars(engine.effective()).copy()
    must_match(settings, record.effective)
    settings.device.reset_peak_memory()
    staged = engine.stage(source.batch(0))
    out.info("compiling for the volume's shape, then warming up")
    group.working("compiling")
    engine.compile(staged)
    record.load_seconds = dict(engine.load_seconds)
    warm_up = WarmUp(settings.warm_up)
    while not warm_up.done:
        group.working("warming up")
        warm_up.latencies.append(timed(engine.infer, staged)[1])
    record.warm_up = {
        "calls": len(warm_up.latencies),
        "rule": warm_up.rule,
        "settled": warm_up.settled,
        "latency_ms": [1e3 * seconds for seconds in warm_up.latencies],
    }
    out.info(f"warm-up: {warm_up.rule}")
    for name, text in engine.warnings:
        record.warn(name, text)
    return engine


def must_match(settings: Settings, effective: dict[str, Any]) -> None:
    """What ran must be what was asked for.

    Raises:
        MismatchError: naming every difference.
    """
    wrong = [
        f"{name.upper()}={getattr(settings, name)} was asked for, {effective[name]} ran"
        for name in ("precision", "jit")
        if effective[name] != getattr(settings, name)
    ]
    if settings.network == "fast" and settings.engine == "torch" and effective["layout"] != "channels_last_3d":
        wrong.append(f"the layout should be channels_last_3d, {effective['layout']} ran")
    if settings.device.kind not in str(effective["device"]).casefold():
        wrong.append(f"PLATFORM={settings.platform} was asked for, it ran on {effective['device']}")
    if wrong:
        raise MismatchError("; ".join(wrong) + ": no number is reported. Please report this with your settings")


def _measure(record: Record, out: Console, group: Solo, engine: Engine, source: Any) -> None:
    """The measured window: every rank starts together, `num_iterations` calls each."""
    from tqdm import tqdm

    settings = record.settings
    record.planned_calls = settings.num_iterations
    prints = _print_after(settings.num_iterations, settings.status_prints)
    bar = tqdm(
        total=settings.num_iterations,
        unit="call",
        desc="timing",
        leave=False,
        disable=not sys.stderr.isatty() or group.rank > 0,
    )
    lock = threading.Lock()
    streams = threading.local()
    taken = iter(range(settings.streams))
    group.working("measuring")
    group.barrier()
    window = record.window_start = perf_counter()

    def call(index: int) -> None:
        if not hasattr(streams, "number"):
            with lock:
                streams.number = next(taken)
        sample = one_call(engine, source, index, window)
        sample.stream, sample.rank = streams.number, group.rank
        with lock:
            record.samples.append(sample)
            group.keep(sample)
            bar.update()
            if len(record.samples) in prints:
                stats = summarise(record.samples, settings.streams)
                bar.clear()
                out.info(console.status(len(record.samples), settings.num_iterations, stats, record.accuracy))
                if settings.streams == 1 and group.size == 1:
                    document.write(record, settings.output_dir)

    _spread(call, settings.num_iterations, settings.streams)
    bar.close()
    record.samples.sort(key=lambda sample: sample.start)
    record.memory = {
        "peak_host_bytes": host.peak_memory(),
        "peak_device_bytes": None if settings.platform == "CPU" else settings.device.peak_memory(),
    }


def one_call(engine: Engine, source: Any, index: int, window: float) -> Sample:
    """Stage, infer, take the labels: three times of a monotonic clock, of which the middle one is the latency."""
    begin = perf_counter()
    volumes = source.batch(index)
    staged = engine.stage(volumes)
    start = perf_counter()
    output = engine.infer(staged)
    end = perf_counter()
    engine.labels(output)
    return Sample(
        start=start - window,
        latency=end - start,
        stage=start - begin,
        post=perf_counter() - end,
        volumes=len(volumes),
        cases=source.cases(index),
    )


def _spread(call: Callable[[int], None], count: int, streams: int) -> None:
    """Make `count` calls, as many at a time as there are streams; the first error ends them all."""
    if streams == 1:
        for index in range(count):
            call(index)
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="stream") as pool:
        for future in [pool.submit(call, index) for index in range(count)]:
            future.result()


def _print_after(calls: int, prints: int) -> set[int]:
    """Numbers of finished calls after which a PERF_STATUS line is printed: evenly spread, the last one always."""
    return {max(1, round(calls * (i + 1) / prints)) for i in range(prints)}


def needed_memory(settings: Settings, base_features: int) -> int:
    """Bytes that the largest layers need at least: the widest full-resolution tensors and the weights."""
    voxels = settings.batch_size
    for extent in settings.volume_shape:
        voxels *= extent
    size = PRECISIONS[settings.precision].bytes
    # Input and logits, the concatenation (twice the base features) and the convolution's output, all alive at once.
    return voxels * settings.streams * (size * (4 + 4 + 3 * base_features) + 4 * 4)


def _need_memory(record: Record, ranks: int) -> None:
    settings = record.settings
    if settings.platform != "CPU":
        return
    needed, free = ranks * needed_memory(settings, record.weights["base_features"]), host.available_memory()
    if needed > free:
        for_ranks, lower = ("", "") if ranks == 1 else (f" for {ranks} ranks", "INSTANCES, ")
        raise OutOfMemory(
            f"about {needed / 2**30:.1f} GiB of memory are needed{for_ranks}, {free / 2**30:.1f} GiB are "
            f"free; lower {lower}BATCH_SIZE or STREAMS, or use PRECISION=bf16"
        )


def _memory_advice(record: Record) -> str:
    settings = record.settings
    needed = needed_memory(settings, record.weights.get("base_features", 32))
    properties = settings.device.properties()
    return (
        f"out of memory on {properties.name} ({properties.memory_bytes / 2**30:.1f} GiB): BATCH_SIZE="
        f"{settings.batch_size} in {settings.precision} needs at least {needed / 2**30:.1f} GiB; "
        "lower BATCH_SIZE or STREAMS, or use PRECISION=bf16 or fp16"
    )
