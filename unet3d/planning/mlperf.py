"""MLPerf Inference v1.1's settings for this benchmark, the last round that had it, and what a run departs from.

The numbers are those of mlperf.conf of that round (github.com/mlcommons/inference, branch r1.1). The benchmark was then
replaced by another data set, so that no result is accepted any more; "valid for submission" means: would have been.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from unet3d.config.values import Asked, Settings
from unet3d.workload import SHAPE

INSTALL = "pip install -r requirements-loadgen.txt"
DEFAULT, SINGLE_STREAM, OFFLINE = "Default", "SingleStream", "Offline"

MIN_QUERIES = {SINGLE_STREAM: 1024, OFFLINE: 24576}  # in Offline the samples of its one query
MIN_DURATION_S = 600
PERCENTILE = 0.9  # of the latency that SingleStream reports
PERFORMANCE_SAMPLES = 16  # volumes held in memory, of which each query draws
SEEDS = {
    "qsl_rng_seed": 1624344308455410291,
    "sample_index_rng_seed": 517984244576520566,
    "schedule_rng_seed": 10051496985653635065,
}
# A LoadGen of today calls a run of fewer SingleStream queries invalid: too few for its early stopping rule.
LEAST_FOR_VERDICT = 64


@dataclass(frozen=True)
class LoadGenRun:
    """One performance run: `queries` is the least number of volumes asked for, `duration_s` the least duration."""

    scenario: str
    queries: int
    duration_s: int
    performance_samples: int
    departures: tuple[str, ...]  # from what the retired benchmark asks of a submission, a phrase each

    @property
    def limited(self) -> bool:
        """Whether the run ends after exactly `queries` volumes, whatever they take."""
        return self.duration_s == 0

    def calls(self, batch_size: int) -> int:
        """Calls that the run has at least."""
        return -(-self.queries // batch_size)


def refuse_settings(asked: Asked) -> list[str]:
    """One line for each reason why these settings cannot run under LoadGen; none for the default loop."""
    problems = _refuse_compliance(asked) if asked.compliance else []
    if asked.scenario == DEFAULT:
        if asked.min_duration is None:
            return problems
        return [
            *problems,
            "MIN_DURATION with SCENARIO=Default is not possible; it is LoadGen's, use SCENARIO=SingleStream or "
            "Offline, or set NUM_ITERATIONS",
        ]
    if importlib.util.find_spec("mlperf_loadgen") is None:
        problems.append(
            f"SCENARIO={asked.scenario}, but mlcommons-loadgen is not installed; {INSTALL}, or use SCENARIO=Default"
        )
    if several := _several(asked):
        problems.append(
            f"{', '.join(several)} with SCENARIO={asked.scenario} is not possible, LoadGen drives one process; "
            f"leave {'it' if len(several) == 1 else 'them'} out, or use SCENARIO=Default"
        )
    if asked.scenario == SINGLE_STREAM:
        problems += [
            f"{name.upper()}={asked.value(name)} with SCENARIO=SingleStream is not possible, it sends one volume at a "
            f"time; use {name.upper()}=1 or SCENARIO=Offline"
            for name in ("batch_size", "streams")
            if asked.value(name) != 1
        ]
    return problems


def _several(asked: Asked) -> list[str]:
    """The settings that ask for more than one process."""
    return [
        name.upper()
        for name in ("multi_tile", "devices", "instances", "nnodes", "scaling")
        if asked.value(name) is True or asked.value(name) not in (None, False, 1)
    ]


def _refuse_compliance(asked: Asked) -> list[str]:
    several = _several(asked)
    if not several or asked.scenario != DEFAULT:  # which refuses them itself
        return []
    return [
        f"{', '.join(several)} with COMPLIANCE=yes is not possible, its checks are of one process; "
        f"leave {'it' if len(several) == 1 else 'them'} out, or use COMPLIANCE=no"
    ]


def loadgen_run(settings: Settings, samples: int, weights: str | None, standard_cases: bool) -> LoadGenRun:
    """What to run for the settings, with `samples` different volumes at hand.

    NUM_ITERATIONS counts calls: SingleStream's queries, and in Offline batches of the one query. Where the user sets it,
    the run has just that many unless MIN_DURATION asks for more. standard_cases: whether the volumes are all of a fold of
    BraTS 2019.
    """
    scenario = settings.scenario
    chosen = settings.sources["num_iterations"] != "default"
    queries = settings.num_iterations * settings.batch_size if chosen else MIN_QUERIES[scenario]
    duration = settings.min_duration
    if duration is None:
        duration = 0 if chosen else MIN_DURATION_S
    held = min(PERFORMANCE_SAMPLES, samples)
    what = "queries" if scenario == SINGLE_STREAM else "samples"
    departures = []
    if queries < MIN_QUERIES[scenario]:
        departures.append(f"{queries} {what} instead of {MIN_QUERIES[scenario]}")
    if duration < MIN_DURATION_S:
        departures.append(f"a minimum of {duration} s instead of {MIN_DURATION_S} s")
    if held < PERFORMANCE_SAMPLES:
        departures.append(f"{held} different volumes instead of {PERFORMANCE_SAMPLES}")
    if settings.dummy:
        departures.append("random volumes")
    elif not standard_cases:
        departures.append("not all cases of a fold of BraTS 2019")
    if tuple(settings.volume_shape) != SHAPE:
        departures.append(f"volumes of {settings.volume_shape}")
    if weights != "mlperf":
        departures.append(f"weights: {weights}")
    return LoadGenRun(scenario, queries, duration, held, tuple(departures))
