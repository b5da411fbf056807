"""Settings, plans and records for tests, from variables as users set them."""

from pathlib import Path

from unet3d.config import parse
from unet3d.config.values import Asked
from unet3d.engines.base import Effective
from unet3d.errors import UserErrors
from unet3d.planning.plan import make
from unet3d.planning.refusals import impossible
from unet3d.planning.resolve import complete
from unet3d.results.facts import Agreement, PeakMemory, VolumesFacts, WarmUpFacts, WeightsFacts
from unet3d.results.record import Record


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


ROOT = Path(__file__).parents[1]
