"""The keys of results.json, schema_version 2, as those who read one use them: the one declaration of them.

`results.schema.json` beside this file is the same as JSON Schema, for other programs and for `unet3d.results.reader`;
`python -m unet3d.results.json_schema` writes it from here. A document of an interrupted run has all keys of `Results` too,
but what was not known yet is None or empty. Mappings whose keys a machine, an engine or a library decides are left open.

Readers ignore keys that they do not know, so a key may be added within this version, as NotRequired. Text never names a
home folder: this user's is written as `~`, another one's as `/home/…`, see `unet3d.results.private`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NotRequired, Required, TypedDict, cast

from unet3d.results.limits import (
    AtLeastOne,
    Count,
    EmptyUntilKnown,
    Keys,
    Known,
    Latency,
    Length,
    Limits,
    Milliseconds,
    Pattern,
    Rate,
    Scores,
    Seconds,
    Share,
    Start,
    Time,
    Together,
)

# What JSON can hold.
Value = str | int | float | bool | None | Sequence["Value"] | Mapping[str, "Value"]


class Benchmark(TypedDict):
    """The program that ran."""

    name: str
    version: str
    command: list[str]
    git_commit: str | None
    git_dirty: bool | None


def changes(benchmark: Benchmark) -> str:
    """What follows a commit in brackets: that files differed from it, or that nobody knows; empty where none did."""
    told = {True: " (changed)", False: "", None: " (changes unknown)"}
    return told[benchmark.get("git_dirty")]


class Requested(TypedDict, total=False):
    """Each setting with its value, None where there is none. One that a document lacks did not exist when it was written."""

    platform: Required[str]
    precision: Required[str]
    engine: Required[str]
    onnx_provider: str | None
    jit: Required[str]
    network: Required[str]
    tune: bool
    ipex: bool
    amp: bool
    multi_tile: bool
    devices: AtLeastOne
    instances: AtLeastOne
    nnodes: AtLeastOne
    node_rank: Count | None
    rdzv_endpoint: str | None
    rank_timeout: AtLeastOne
    scaling: list[AtLeastOne] | None
    batch_size: Required[AtLeastOne]
    num_iterations: Required[AtLeastOne]
    warm_up: Count | None
    streams: Required[AtLeastOne]
    threads: AtLeastOne
    scenario: str
    min_duration: Count | None
    compliance: bool
    full_size_check: bool
    telemetry: bool
    profile: bool
    input_on_device: Required[bool]
    dummy: bool
    dataset_dir: str | None
    preprocessed_dir: str | None
    fold: Count
    num_images: AtLeastOne | Literal["all"]
    weights: str
    seed: Count
    volume_shape: Annotated[list[AtLeastOne], Length(3, 3)]
    output_dir: str
    save_segmentations: bool
    status_prints: AtLeastOne
    verbose: bool


class Settings(TypedDict):
    """Each setting's value, where it came from (flag, variable or default), and why where the machine chose it."""

    requested: Requested
    source: dict[str, str]
    reasons: dict[str, str]


class Effective(TypedDict, total=False):
    """What the running software itself reported; empty before the network is loaded.

    engine: its name and version. device: as PyTorch names it, whatever the engine. network: `fast`, a form of ours for
    inference, or `reference`, nnU-Net's own; `details` names the class. details: what only this engine has; where it has forms
    of convolutions to choose from, `convolution_forms` by layer, and in words where the choice is from.
    """

    engine: str
    device: Annotated[str, Pattern(r"(cpu|cuda:[0-9]+|xpu:[0-9]+)")]
    precision: str
    jit: str
    layout: str
    network: Literal["fast", "reference"]
    amp: bool | None
    ipex: bool
    details: Annotated[dict[str, Value], Known((("convolution_forms", dict[str, str]), ("convolution_forms_from", str)))]


class Volume(TypedDict):
    """One volume: [modality, z, y, x], whether it is the benchmark's, and 1e12 FLOP of one inference."""

    shape: Annotated[list[AtLeastOne], Length(4, 4)]
    standard: bool
    tflop: Annotated[float, Limits(0, 1e9)]


class Weights(TypedDict, total=False):
    """The weights; empty before they are loaded."""

    kind: str
    sha256: str | None
    path: str | None
    base_features: AtLeastOne
    parameters: Count


class Data(TypedDict, total=False):
    """The volumes, empty before they are chosen: random ones have a seed, those of a data set have a fold and cases."""

    kind: str
    seed: Count
    distribution: str
    path: str
    fold: Count
    cases: list[str]
    standard_names: bool
    preprocessed_dir: str
    names_sha256: str


class Check(TypedDict):
    """A comparison with fp32: on a small volume, or of sampled voxels of a volume of the run's own shape."""

    shape: list[AtLeastOne]
    relative_error: float
    label_agreement: Share
    limit: float
    finite: bool


class WarmUp(TypedDict, total=False):
    """The calls before the timed ones; empty before they are made."""

    calls: Count
    rule: str
    settled: bool
    latency_ms: list[Latency]


class OneAtATime(TypedDict):
    """Calls after the measured ones, which overlap, with nothing beside them."""

    latency_ms: list[Latency]


class Samples(TypedDict):
    """One item a timed call in each list."""

    start_s: list[Start]
    latency_ms: list[Latency]
    stage_ms: list[Milliseconds]
    post_ms: list[Milliseconds]
    hidden_ms: NotRequired[list[Milliseconds]]
    volumes: list[AtLeastOne]
    stream: list[Count]
    rank: list[Count]
    cases: list[list[str]]


class Statistics(TypedDict):
    """See `unet3d.results.timing.Statistics`: latencies in milliseconds, throughputs in volumes a second."""

    calls: AtLeastOne
    volumes: AtLeastOne
    mean: Latency
    median: Latency
    p50: Latency
    p90: Latency
    p99: Latency
    min: Latency
    max: Latency
    stdev: Milliseconds
    cv: float
    throughput: Rate
    throughput_with_overhead: Rate
    latency_with_overhead: Latency
    tflops: Annotated[float, Limits(0, 1e15)]


class Fp32Accuracy(TypedDict):
    """Dice of nnU-Net's fp32 network on the same cases."""

    WT: Share | None
    TC: Share | None
    ET: Share | None
    total: Share | None
    cases: dict[str, Scores]


class Accuracy(TypedDict):
    """Dice as fractions: means of the regions, their mean, and each case's; None where a region is nowhere."""

    WT: Share | None
    TC: Share | None
    ET: Share | None
    total: Share | None
    undefined: dict[str, Count]
    cases: dict[str, Scores]
    weights: str | None
    fp32: NotRequired[Fp32Accuracy]
    relative_loss_from_fp32: NotRequired[dict[str, float | None]]
    mlperf_reference: NotRequired[Annotated[dict[str, Share], Keys(("WT", "TC", "ET", "total"))]]
    difference_from_mlperf: NotRequired[Annotated[dict[str, float | None], Keys(("WT", "TC", "ET", "total"))]]


def dice_of(accuracy: Accuracy, region: str) -> float | None:
    """The mean Dice of WT, TC, ET or `total`."""
    return cast(Mapping[str, float | None], accuracy)[region]


class Memory(TypedDict, total=False):
    """Peaks in bytes, empty before the end; None for a device that has no memory of its own."""

    peak_host_bytes: Count
    peak_device_bytes: Count | None


class Hardware(TypedDict, total=False):
    """The machine as a process sees it that is bound to none of its cores.

    device, device_memory_bytes, driver: of what ran, where that is not the CPU, and its driver's version where it is known.
    """

    cpu: str
    device: str
    device_memory_bytes: Count
    driver: str
    architecture: str
    logical_cpus: AtLeastOne | None
    usable_cores: AtLeastOne
    numa_nodes: AtLeastOne
    instructions: list[str]
    frequency_governor: str | None
    memory_bytes: Count
    kernel: str
    system: str
    container: bool
    host: str


class Environment(TypedDict, total=False):
    """The machine and its software; parts are absent before they are looked at."""

    git_commit: str | None
    git_dirty: bool | None
    hardware: Hardware
    versions: dict[str, str]
    variables: dict[str, str]


class Figure(TypedDict):
    """A row of results.yaml."""

    key: str
    value: float | str | None
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
    """Joules by counter ("NVML", "RAPL"), in all and per volume."""

    joules: dict[str, float]
    volumes: Count
    joules_per_volume: dict[str, float]
    covers: str


class Disturbance(TypedDict):
    """Who had the CPUs of the run while it was measured; shares are of these CPUs' whole time."""

    window_s: float
    cpus: int
    own_cpu_s: float
    others_cpu_s: float
    others_share: float
    stolen_share: float
    throttled_times: int
    throttled_s: float


class Telemetry(TypedDict):
    """Readings while measuring; `series` has the seconds under `time_s`, and lists of that length."""

    samples: Count
    series: Annotated[dict[str, list[float | None]], Keys(("time_s",))]
    summary: dict[str, Spread]
    absent: list[str]
    energy: Energy | None
    period_s: NotRequired[Seconds]
    window_s: NotRequired[Seconds]
    sampling_share: NotRequired[float]


class Layer(TypedDict):
    """One operator of the profiled inference, or one kernel of it on a GPU.

    flop: as a direct convolution. executed_flop: of the products that it computed, whose data type is `products`.
    share_of_matmul: executed FLOP over the time, of the ceiling for these products. ceiling: whether that is the hardware's or
    a library's. Without executed_flop, which an older version did not tell, nominal FLOP of the library ceiling.
    """

    name: str
    layer: NotRequired[str | None]
    kernel: NotRequired[str | None]
    shapes: list[list[Count]]
    ms: Milliseconds
    flop: float
    bytes: float
    share_of_time: float
    share_of_matmul: float | None
    ceiling: NotRequired[Literal["hardware", "library"] | None]
    share_of_copy: float | None
    products: NotRequired[str | None]
    executed_flop: NotRequired[float]


class ProductRate(TypedDict):
    """The best rate of products in one data type, in 1e12 FLOP a second, and what was measured."""

    products: str
    tflops: Rate
    how: str


class Ceilings(TypedDict):
    """The machine's measured rates: 1e12 FLOP a second, 1e9 bytes a second.

    matmul_tflops, matmul_how: the library ceiling, its fastest product in the run's precision. hardware: the ceilings of the
    run's precision and of the products that ran, the hardware's on a CPU (`device` is cpu), otherwise a library's best.
    executed_tflop: 1e12 FLOP of the products that one volume took, by their data type; volume.tflop is nominal.
    """

    device: str
    precision: str
    threads: Count | None
    matmul_tflops: Rate | None
    copy_gbs: Rate
    matmul_how: str
    hardware: NotRequired[list[ProductRate]]
    executed_tflop: NotRequired[dict[str, Rate]]


class Place(TypedDict):
    """What a process was bound to, see `unet3d.results.facts.Bound`."""

    name: str
    threads: Count
    cpus: str | None
    memory_nodes: str | None
    memory_not_bound: str | None
    variables: dict[str, str]


class Rank(TypedDict, total=False):
    """One rank of several: where it ran, and its own figures as `Statistics` has them."""

    rank: Required[Count]
    node: Count
    host: str
    place: Place
    device: str
    calls: Count
    volumes: Count
    throughput: Rate
    throughput_with_overhead: Rate
    latency_mean_ms: Latency
    latency_p90_ms: Latency
    busy_s: Seconds
    peak_host_bytes: Count
    peak_device_bytes: Count | None
    check: Check
    warm_up: WarmUp
    load_seconds: dict[str, Seconds]


def rank_count(ranks: Sequence[object], of_samples: Sequence[int]) -> int:
    """Of how many processes a result is, from `ranks` and `samples.rank`.

    A run that was interrupted has none under `ranks`: there the samples say of how many they are.
    """
    return len(ranks) or 1 + max(of_samples, default=0)


class Pool(TypedDict):
    """All ranks together: the window that they share, and how evenly they worked."""

    ranks: AtLeastOne
    nodes: AtLeastOne
    window_s: Seconds
    start_skew_s: Seconds
    all_at_work: float
    slowest_rank: Count
    slowest_behind: float


class LoadGenPerformance(TypedDict, total=False):
    """LoadGen's own figures of a performance run, and how our clock's latencies differ from them, relative to LoadGen's."""

    scenario: str
    verdict: str | None
    queries: Count | None
    latency_ms: dict[str, Milliseconds]
    own_latency_ms: dict[str, Milliseconds]
    difference: dict[str, float]
    samples_per_second: float | None
    early_stopping: Value
    problems: list[str]


class LoadGen(TypedDict, total=False):
    """What MLPerf's LoadGen said of the run."""

    valid_for_submission: Required[bool]
    version: str
    rules: str
    settings: dict[str, Value]
    why_not: list[str]
    performance: LoadGenPerformance
    accuracy: dict[str, Value]


class ComplianceTest(TypedDict):
    """One of MLPerf's checks: what was found, as it was printed, and the figures that decide."""

    name: str
    passed: bool
    found: str
    figures: dict[str, float | None]


class Compliance(TypedDict):
    """MLPerf's compliance checks, in the form that they have here."""

    passed: bool
    tests: list[ComplianceTest]


class Results(TypedDict):
    """results.json of the 3D U-Net inference benchmark."""

    schema_version: Literal[2]
    complete: bool
    incomplete_reason: str | None
    benchmark: Benchmark
    mode: Literal["performance", "accuracy"]
    scenario: Literal["loop", "SingleStream", "Offline"]
    started: Time
    finished: Time | None
    settings: Settings
    effective: Annotated[
        Effective,
        EmptyUntilKnown(("engine", "device", "precision", "jit", "layout", "network", "amp", "ipex", "details")),
    ]
    volume: Volume
    weights: Annotated[Weights, EmptyUntilKnown(("kind", "sha256", "path", "base_features", "parameters"))]
    data: Annotated[Data, EmptyUntilKnown(("kind",)), Together("cases", ("fold", "names_sha256"))]
    check: Check | None
    load_seconds: dict[str, Seconds]
    warm_up: Annotated[WarmUp, EmptyUntilKnown(("calls", "rule", "settled", "latency_ms"))]
    planned_calls: Count
    samples: Samples
    statistics: Statistics | None
    accuracy: Accuracy | None
    memory: Annotated[Memory, EmptyUntilKnown(("peak_host_bytes", "peak_device_bytes"))]
    environment: Environment
    ranks: list[Rank]
    figures: list[Figure]
    warnings: list[Warned]
    full_size_check: NotRequired[Check]
    one_at_a_time: NotRequired[OneAtATime]
    placement: NotRequired[Place]
    pool: NotRequired[Pool]
    telemetry: NotRequired[Telemetry]
    disturbance: NotRequired[Disturbance]
    profile: NotRequired[list[Layer]]
    ceilings: NotRequired[Ceilings]
    loadgen: NotRequired[LoadGen]
    compliance: NotRequired[Compliance]
