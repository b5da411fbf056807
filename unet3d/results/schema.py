"""The keys of results.json, schema_version 1, as those who read one use them.

A document of an interrupted run has all keys of `Results` too, but what was not known yet is None or empty. Mappings
whose keys a machine, an engine or a library decides are left open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

# What JSON can hold.
Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


class Benchmark(TypedDict):
    """The program that ran."""

    name: str
    version: str
    command: list[str]
    git_commit: str | None
    git_dirty: bool | None


class Settings(TypedDict):
    """Each setting by name: its value as text, where it came from, and why it was chosen where the machine chose it."""

    requested: dict[str, str]
    source: dict[str, str]
    reasons: dict[str, str]


class Effective(TypedDict, total=False):
    """What the running software itself reported; empty before the network is loaded."""

    engine: str
    device: str
    precision: str
    jit: str
    layout: str
    network: str
    amp: bool | None
    ipex: bool
    details: dict[str, Value]


class Volume(TypedDict):
    """One volume: [modality, z, y, x], whether it is the benchmark's, and 1e12 FLOP of one inference."""

    shape: list[int]
    standard: bool
    tflop: float


class Weights(TypedDict, total=False):
    """The weights; empty before they are loaded."""

    kind: str
    sha256: str | None
    path: str | None
    base_features: int
    parameters: int


class Data(TypedDict, total=False):
    """The volumes: random ones have a seed, those of a data set have a fold and cases."""

    kind: str
    seed: int
    distribution: str
    path: str
    fold: int
    cases: list[str]
    standard_names: bool
    preprocessed_dir: str
    names_sha256: str


class Check(TypedDict):
    """The comparison with fp32 on a small volume."""

    shape: list[int]
    relative_error: float
    label_agreement: float
    limit: float
    finite: bool


class WarmUp(TypedDict, total=False):
    """The calls before the timed ones."""

    calls: int
    rule: str
    settled: bool
    latency_ms: list[float]


class Samples(TypedDict):
    """One item a timed call in each list."""

    start_s: list[float]
    latency_ms: list[float]
    stage_ms: list[float]
    post_ms: list[float]
    volumes: list[int]
    stream: list[int]
    rank: list[int]
    cases: list[list[str]]


class Statistics(TypedDict):
    """See `unet3d.results.timing.Statistics`: latencies in milliseconds, throughputs in volumes a second."""

    calls: int
    volumes: int
    mean: float
    median: float
    p50: float
    p90: float
    p99: float
    min: float
    max: float
    stdev: float
    cv: float
    throughput: float
    throughput_with_overhead: float
    latency_with_overhead: float
    tflops: float


class Accuracy(TypedDict):
    """Dice as fractions: means of the regions, their mean, and each case's; None where a region is nowhere."""

    WT: float | None
    TC: float | None
    ET: float | None
    total: float | None
    undefined: dict[str, int]
    cases: dict[str, dict[str, float | None]]
    weights: str | None
    fp32: NotRequired[dict[str, float | None]]
    mlperf_reference: NotRequired[dict[str, float]]
    difference_from_mlperf: NotRequired[dict[str, float | None]]


def dice_of(accuracy: Accuracy, region: str) -> float | None:
    """The mean Dice of WT, TC, ET or `total`."""
    return cast(Mapping[str, float | None], accuracy)[region]


class Memory(TypedDict, total=False):
    """Peaks in bytes; None for a device that has no memory of its own."""

    peak_host_bytes: int
    peak_device_bytes: int | None


class Environment(TypedDict, total=False):
    """The machine and its software; empty before they are looked at."""

    git_commit: str | None
    git_dirty: bool | None
    hardware: dict[str, Value]
    versions: dict[str, str]
    variables: dict[str, str]


class Figure(TypedDict):
    """A row of results.yaml."""

    key: str
    value: float | None
    unit: str


class Warned(TypedDict):
    """A warning with its remedy."""

    name: str
    message: str
    remedy: str


class Spread(TypedDict):
    """Of a metric over the measured window."""

    mean: float
    min: float
    max: float


class Energy(TypedDict):
    """Joules by counter ("NVML", "RAPL"), in all and a volume."""

    joules: dict[str, float]
    volumes: int
    joules_per_volume: dict[str, float]
    covers: str


class Telemetry(TypedDict):
    """Readings while measuring; `series` has the seconds under `time_s`."""

    samples: int
    series: dict[str, list[float | None]]
    summary: dict[str, Spread]
    absent: list[str]
    energy: Energy | None


class Layer(TypedDict):
    """One operator of the profiled inference."""

    name: str
    shapes: list[list[int]]
    ms: float
    flop: int
    bytes: int
    share_of_time: float
    share_of_matmul: float | None
    share_of_copy: float | None


class Ceilings(TypedDict):
    """The machine's measured rates: 1e12 FLOP a second, 1e9 bytes a second."""

    device: str
    precision: str
    threads: int | None
    matmul_tflops: float | None
    copy_gbs: float
    matmul_how: str


class LoadGen(TypedDict, total=False):
    """What MLPerf's LoadGen said of the run."""

    version: str
    rules: str
    settings: dict[str, Value]
    valid_for_submission: bool
    why_not: list[str]
    performance: dict[str, Value]


class Pool(TypedDict):
    """The ranks together; `slowest_behind`: over the fastest, `all_at_work`: share of the window."""

    ranks: int
    nodes: int
    window_s: float
    start_skew_s: float
    all_at_work: float
    slowest_rank: int
    slowest_behind: float


class Results(TypedDict):
    """results.json."""

    schema_version: int
    complete: bool
    incomplete_reason: str | None
    benchmark: Benchmark
    mode: str
    scenario: str
    started: str
    finished: str | None
    settings: Settings
    effective: Effective
    volume: Volume
    weights: Weights
    data: Data
    check: Check | None
    load_seconds: dict[str, float]
    warm_up: WarmUp
    planned_calls: int
    samples: Samples
    statistics: Statistics | None
    accuracy: Accuracy | None
    memory: Memory
    environment: Environment
    ranks: list[dict[str, Value]]
    figures: list[Figure]
    warnings: list[Warned]
    telemetry: NotRequired[Telemetry]
    profile: NotRequired[list[Layer]]
    ceilings: NotRequired[Ceilings]
    loadgen: NotRequired[LoadGen]
    pool: NotRequired[Pool]
