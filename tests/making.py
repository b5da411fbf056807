"""Settings, plans and records for tests, from variables as users set them; samples of machines whose speed is known."""

from pathlib import Path

import numpy as np

from unet3d.config import parse
from unet3d.config.values import Asked
from unet3d.engines.base import Effective
from unet3d.errors import UserErrors
from unet3d.planning.plan import make
from unet3d.planning.refusals import impossible
from unet3d.planning.resolve import complete
from unet3d.results.facts import Agreement, PeakMemory, VolumesFacts, WarmUpFacts, WeightsFacts
from unet3d.results.record import Record
from unet3d.results.timing import Sample


def asked_of(**variables):
    """What these variables (`batch_size=2`) ask for; UserErrors when it is impossible."""
    given, problems = parse.parse([], {name.upper(): str(value) for name, value in variables.items()})
    asked = Asked.of(given)
    problems += impossible(asked)
    if problems:
        raise UserErrors(problems)
    return asked


def settings_of(**variables):
    """The same, completed by this machine: a CPU unless a platform is named."""
    return complete(asked_of(**{"platform": "CPU", "weights": "random", **variables})).settings


def plan_of(**variables):
    """A plan for a CPU unless a platform is named."""
    return make(asked_of(**{"platform": "CPU", "weights": "random", **variables}))


def weights_facts(kind="random", **changes):
    return WeightsFacts(**{"kind": kind, "sha256": None, "path": None, "base_features": 8, "parameters": 1, **changes})


def effective(**changes):
    facts = {"engine": "none", "device": "cpu", "precision": "fp32", "jit": "none", "layout": "contiguous", "network": "fast"}
    return Effective(**{**facts, **changes})


def agreement(error=0.01):
    return Agreement((1, 4, 64, 64, 64), error, 1.0, 1.0, True)


def record_of(settings, **changes):
    """A record that is as far as a run is when it begins to measure."""
    values = {
        "weights": weights_facts(),
        "data": VolumesFacts(kind="random"),
        "check": agreement(),
        "effective": effective(),
        "warm_up": WarmUpFacts(1, "as set", True, [5.0]),
        "memory": PeakMemory(100, None),
        "tflop_per_volume": 1.0,
    }
    return Record(settings, **{**values, **changes})


def stream_samples(calls, streams, host=0.0, spread=0.0, queue=False, seed=0, pace=1.0):
    """Calls of streams that each take the next one from one list, on a machine whose rate is known.

    Every call asks for `pace` seconds of work, give or take `spread` of it, with `host` seconds of host work around it. queue:
    streams wait for one device, which then does 1 / pace volumes per second; otherwise each has cores of its own, and
    together they do streams / pace.
    """
    rng = np.random.default_rng(seed)
    free, device, samples = [0.0] * streams, 0.0, []
    for _ in range(calls):
        stream = int(np.argmin(free))
        start, work = free[stream] + host / 2, pace * (1 + spread * rng.standard_normal())
        device = max(device, start) + work
        end = device if queue else start + work
        samples.append(Sample(start, end - start, host / 2, host / 2, stream=stream))
        free[stream] = end + host / 2
    return samples


ROOT = Path(__file__).parents[1]
