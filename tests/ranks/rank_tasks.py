"""What ranks do in the tests of tests/ranks/test_launch.py, in place of the network's full run."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from unet3d.brats import folds, preprocessing, weights
from unet3d.engines import registry
from unet3d.engines.base import Effective
from unet3d.errors import UserError
from unet3d.measure import accuracy
from unet3d.network import reference
from unet3d.results.facts import Agreement, PeakMemory, VolumesFacts, WarmUpFacts, WeightsFacts
from unet3d.results.timing import Sample

SHAPE = (64, 64, 64)
CALLS = 4


def measure(plan, record, out, group, after=lambda index: None):
    """CALLS calls, each 20 ms long on even ranks and 30 ms on odd ones; `after` is called with each one's index."""
    record.effective = Effective("none", "cpu", record.settings.precision, "none", "contiguous", "fast")
    record.weights, record.data = WeightsFacts("random", None, None, 8, 1), VolumesFacts(kind="random")
    record.check = Agreement((1, 4, *SHAPE), 0.01 * (group.rank + 1), 1.0, 1.0, True)
    record.load_seconds, record.warm_up = {"build": 1.0 + group.rank}, WarmUpFacts(0, "none", True, [])
    record.memory = PeakMemory(100, None)
    record.planned_calls = CALLS
    group.working("measuring")
    group.barrier()
    record.window_start = time.perf_counter()
    for index in range(CALLS):
        start = time.perf_counter() - record.window_start
        time.sleep(0.02 + 0.01 * (group.rank % 2))
        sample = Sample(start=start, latency=time.perf_counter() - record.window_start - start, rank=group.rank)
        record.samples.append(sample)
        group.keep(sample)
        after(index)
    out.info(f"PERF_STATUS of rank {group.rank}")


def once_the_other_is_done(signal_number):
    """What the other rank has measured by then is in its file: nothing of the test depends on who is faster."""
    time.sleep(0.5)
    os.kill(os.getpid(), signal_number)


def rank_1_is_killed(plan, record, out, group):
    measure(plan, record, out, group, lambda index: group.rank == 1 and index == 1 and once_the_other_is_done(signal.SIGKILL))


def rank_1_hangs(plan, record, out, group):
    measure(plan, record, out, group, lambda index: group.rank == 1 and index == 1 and once_the_other_is_done(signal.SIGSTOP))


def rank_1_refuses(plan, record, out, group):
    if group.rank == 1:
        raise UserError("something is wrong here; mend it")
    group.barrier()


def rank_1_breaks(plan, record, out, group):
    if group.rank == 1:
        raise ZeroDivisionError("a defect")
    group.barrier()


def predict_cases(plan, record, out, group):
    """Accuracy mode's own steps with a narrow network on small volumes; says which cases this rank has scored."""
    settings = record.settings
    # Of so few cases a fold would be one case or none.
    folds.fold_names = lambda names, fold: sorted(names)
    cases, _ = accuracy.prepare(settings, out, group)
    cases = replace(cases, store=preprocessing.Store(settings.preprocessed_dir, SHAPE))
    scored, add = [], accuracy.Predictions.add

    def noting(predictions, case, *rest):
        scored.append(case.name)
        add(predictions, case, *rest)

    accuracy.Predictions.add = noting
    loaded = weights.random_weights(base_features=8, max_features=32)
    engine = registry.create(replace(plan.request, shape=(1, 4, *SHAPE), threads=1, jit="none", network="reference"))
    network = reference.build(loaded.plans, loaded.state_dict)
    engine.load(network)
    engine.compare(cases.store.load(cases.names[0]).array[None])
    try:
        predictions = accuracy.predict(engine, cases, settings, group)
        if group.rank == 0:
            record.accuracy = accuracy.summarise(predictions.scores, cases.names, "random", out)
    finally:
        accuracy.Predictions.add = add
    Path(settings.output_dir, f"scored{group.rank}of{group.size}.txt").write_text("\n".join(scored), encoding="utf-8")
    measure(plan, record, out, group)
