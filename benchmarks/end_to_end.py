#!/usr/bin/env python3
"""Sets volumes per second of a whole run, from reading to labels, beside those of the network alone, with joules of both.

    .venv/bin/python benchmarks/end_to_end.py
    .venv/bin/python benchmarks/end_to_end.py --platform CPU --engines torch,openvino,onnxruntime --calls 20

For each engine and precision the network is called again and again with one staged volume, which is the network alone. Then
the same engine takes as many volumes through the pipeline of a run. With --rounds both alternate, so that a drift of the
machine meets both; on a CPU they do so unasked, call by call. Settings that all share come from the environment (WEIGHTS,
THREADS, INPUT_ON_DEVICE, DATASET_DIR, …). On a GPU 200 calls take about 20 seconds a row.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import runs  # noqa: E402 - found by the path set above
from unet3d import caches, columns, json_files, progress  # noqa: E402
from unet3d.commands.arguments import OneLineParser  # noqa: E402
from unet3d.engines import registry  # noqa: E402
from unet3d.engines.base import Engine  # noqa: E402
from unet3d.errors import BenchmarkError, UserErrors, messages_of  # noqa: E402
from unet3d.files import prepare_folder  # noqa: E402
from unet3d.measure import loop, prepare  # noqa: E402
from unet3d.measure.telemetry import watch  # noqa: E402
from unet3d.planning.group import SingleProcess  # noqa: E402
from unet3d.planning.plan import Plan, ask, make  # noqa: E402
from unet3d.results.console import Console  # noqa: E402
from unet3d.results.timing import Sample, summarise  # noqa: E402

HEAD = ("engine", "precision", "alone/s", "with overhead/s", "ratio", "J alone", "J whole", "ms alone", "ms whole")


@dataclass(frozen=True)
class Row:
    """An engine in a precision. Rates: volumes per second. Joules: per volume, None where no counter can be read.

    alone: of the network, called again and again. whole: through the pipeline, where `latency_ms` is a call's own.
    ratios: of whole to alone, in each round.
    """

    engine: str
    precision: str
    alone: float
    whole: float
    joules_alone: float | None
    joules_whole: float | None
    latency_ms_alone: float
    latency_ms: float
    calls_under_way: int
    ratios: list[float]

    def summary(self) -> str:
        """Both rates and their ratio, with how far rounds lie apart."""
        apart = f" ({min(self.ratios):.3f}–{max(self.ratios):.3f} in {len(self.ratios)} rounds)" if len(self.ratios) > 1 else ""
        return f"alone {self.alone:.4g}/s, with overhead {self.whole:.4g}/s, {self.whole / self.alone:.3f} of it{apart}"

    def cells(self) -> list[str]:
        """A row of the table."""
        joules = ["n/a" if value is None else f"{value:.2f}" for value in (self.joules_alone, self.joules_whole)]
        rates = [f"{self.alone:.4g}", f"{self.whole:.4g}", f"{self.whole / self.alone:.3f}"]
        return [self.engine, self.precision, *rates, *joules, f"{self.latency_ms_alone:.2f}", f"{self.latency_ms:.2f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a row for each; 0 when all could be measured, 1 when some could not, 2 for bad input."""
    return runs.guarded(lambda: _benchmark(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def several(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    parser = OneLineParser(prog="benchmarks/end_to_end.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--platform", help="CUDA, Flex, Max or CPU; default: what is there")
    parser.add_argument("--engines", type=several, default=("torch",), help="(torch)")
    parser.add_argument("--precisions", type=several, help="default: fp16,bf16 on a GPU, all that run on a CPU")
    parser.add_argument("--jit", default="trace", help="JIT of ENGINE=torch (trace)")
    parser.add_argument("--calls", type=runs.count, default=200, help="calls alone, and as many through the pipeline (200)")
    parser.add_argument(
        "--rounds", type=runs.count, help="of both, by turns (with --platform CPU a call each, else 1: joules need seconds)"
    )
    parser.add_argument("--shape", help="VOLUME_SHAPE, such as 224,224,160")
    parser.add_argument("--output", type=Path, help="file for the rows as JSON")
    return parser.parse_args(argv)


def _benchmark(arguments: argparse.Namespace) -> int:
    caches.share()
    if arguments.output:
        prepare_folder(arguments.output.parent, "--output")
    out, rows, failed = Console(stream=sys.stderr, only_status=True), [], False
    on_cpu = arguments.platform == "CPU"
    rounds = min(arguments.rounds or (arguments.calls if on_cpu else 1), arguments.calls)
    precisions = arguments.precisions or (("fp32", "bf16", "int8") if on_cpu else ("fp16", "bf16"))
    with tempfile.TemporaryDirectory(prefix="unet3d-end-to-end-") as scratch, progress.shown_on(out):
        for engine in arguments.engines:
            for precision in precisions:
                words = ["--engine", engine, "--precision", precision, "--num-iterations", str(arguments.calls)]
                words += ["--jit", arguments.jit] if engine == "torch" else []
                words += ["--platform", arguments.platform] if arguments.platform else []
                words += ["--volume-shape", arguments.shape] if arguments.shape else []
                try:
                    rows.append(measure(make(ask([*words, "--output-dir", scratch], os.environ)), out, rounds))
                    # A row may take minutes: who stops the others has it.
                    print(f"{engine} {precision}: {rows[-1].summary()}", file=sys.stderr, flush=True)
                except (BenchmarkError, UserErrors) as error:
                    print(f"not measured: {engine} {precision}: {'; '.join(messages_of(error))}", flush=True)
                    failed = True
    for line in columns.table(HEAD, [row.cells() for row in rows], words=(0, 1)):
        print(line)
    if arguments.output:
        json_files.write(arguments.output, [vars(row) for row in rows])
    return 1 if failed else 0


def measure(plan: Plan, out: Console, rounds: int) -> Row:
    """One engine in one precision: alone and through the pipeline by turns, its calls spread over `rounds` of each.

    Raises:
        BenchmarkError: as a run does.
    """
    registry.engine_class(plan.settings.engine).begin()
    group, settings = SingleProcess(), plan.settings
    network = prepare.load_network(plan, out)
    given = prepare.choose_input(plan, out, group)
    checked = prepare.load_engine(plan, network.reference, out, group)
    engine = checked.engine
    del network
    alone, whole = _Side(), _Side()
    try:
        prepare.warm_up(plan, checked, given.volumes, out, group)
        staged = engine.stage(given.volumes.batch(0))
        # Streams that a round leaves without a call would count as waiting.
        rounds = max(1, min(rounds, settings.num_iterations // settings.streams))
        for number in range(rounds):
            calls = (number + 1) * settings.num_iterations // rounds - number * settings.num_iterations // rounds
            part, samples = replace(plan, settings=replace(settings, num_iterations=calls)), list[Sample]()
            alone.add(calls, *_watched(plan, out, partial(_alone, engine, staged, calls)))
            through = partial(loop.measure, part, engine, given.volumes, group, samples.append)
            _, joules = _watched(plan, out, through)
            stats = summarise(samples, settings.streams)
            whole.add(calls, calls * settings.batch_size / stats.throughput_with_overhead, joules)
            whole.latencies += [sample.latency for sample in samples]
        under_way = engine.depth
    finally:
        engine.close()
    size = settings.batch_size
    return Row(
        settings.engine,
        settings.precision,
        size * alone.calls / sum(alone.seconds),
        size * whole.calls / sum(whole.seconds),
        alone.joules and alone.joules / (size * alone.calls),
        whole.joules and whole.joules / (size * whole.calls),
        1e3 * sum(alone.seconds) / alone.calls,
        1e3 * fmean(whole.latencies),
        under_way,
        [mine / other for mine, other in zip(alone.seconds, whole.seconds, strict=True)],
    )


@dataclass
class _Side:
    """Calls alone, or those through the pipeline: seconds of each round, and joules of all, None where one is not known."""

    calls: int = 0
    seconds: list[float] = field(default_factory=list)
    joules: float | None = 0.0
    latencies: list[float] = field(default_factory=list)

    def add(self, calls: int, seconds: float, joules: float | None) -> None:
        self.calls += calls
        self.seconds.append(seconds)
        self.joules = None if self.joules is None or joules is None else self.joules + joules


def _alone(engine: Engine, staged: object, calls: int) -> float:
    """Seconds of the calls, one after the other, with nothing between them."""
    start = perf_counter()
    for _ in range(calls):
        engine.infer(staged)
    return perf_counter() - start


def _watched(plan: Plan, out: Console, work: Callable[[], float]) -> tuple[float, float | None]:
    """What the work returns, and the joules of all counters meanwhile; None where none can be read."""
    with watch.watching(plan.device, out) as watched:
        answer = work()
    joules = (watched.read or {}).get("joules") or {}
    return answer, sum(joules.values()) if joules else None


if __name__ == "__main__":
    sys.exit(main())
