"""The report's tables of text: settings, machine, software, what ran, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from unet3d.config import kinds
from unet3d.config.settings import BY_NAME
from unet3d.results.report.theme import number
from unet3d.results.schema import Results, Statistics, Value, changes
from unet3d.results.timing import percentile

Rows = list[tuple[str, str]]
RANK_FIGURES = ("throughput", "latency_mean_ms", "latency_p90_ms")
Row3 = tuple[str, str, str]


def latency(stats: Statistics) -> Rows:
    """Name and text of each figure of a call's time."""
    names = (
        ("mean", "mean"),
        ("p50", "p50"),
        ("p90", "p90 (MLPerf SingleStream's figure)"),
        ("p99", "p99"),
        ("min", "min"),
        ("max", "max"),
        ("stdev", "standard deviation"),
        ("latency_with_overhead", "mean with the host's work"),
    )
    milliseconds = cast(Mapping[str, float], stats)
    return [(text, f"{number(milliseconds[key])} ms") for key, text in names] + [
        ("throughput with the host's work", f"{number(stats['throughput_with_overhead'])} volumes/s"),
        ("calls", str(stats["calls"])),
    ]


def settings(doc: Results) -> list[tuple[str, str, str]]:
    """Variable, value, why it has it."""
    requested = cast(Mapping[str, Value], doc["settings"]["requested"])
    sources, reasons = doc["settings"]["source"], doc["settings"]["reasons"]
    rows = []
    for name, value in requested.items():
        source = sources.get(name, "default")
        left_open = value is None and source == "default" and name in BY_NAME
        rows.append(
            (
                name.upper(),
                BY_NAME[name].shown_default if left_open else kinds.show(value),
                reasons.get(name) or ("" if source == "default" else source),
            )
        )
    return rows


def machine(doc: Results) -> Rows:
    """What the machine is."""
    hardware = cast(Mapping[str, Value], doc["environment"].get("hardware", {}))
    return [
        (name.removesuffix("_bytes").replace("_", " "), _shown(name, value))
        for name, value in hardware.items()
        if value is not None
    ]


def software(doc: Results) -> Rows:
    """Versions of the benchmark and of what it uses, and the variables that may change a result."""
    environment, benchmark = doc["environment"], doc["benchmark"]
    commit = benchmark.get("git_commit")
    rows = [
        (
            "benchmark",
            f"{benchmark['name']} {benchmark['version']}" + (f", commit {commit[:12]}{changes(benchmark)}" if commit else ""),
        )
    ]
    rows += list(environment.get("versions", {}).items())
    return rows + list(environment.get("variables", {}).items())


def ran(doc: Results) -> Rows:
    """What was read back from what ran, and what it was fed with."""
    weights, data, check = doc["weights"], doc["data"], doc["check"]
    effective = cast(Mapping[str, Value], doc["effective"])
    rows = [(name, _shown(name, value)) for name, value in effective.items() if name != "details" and value is not None]
    details = cast(Mapping[str, Value], effective.get("details") or {})
    if source := details.get("convolution_forms_from"):
        rows.append(("forms of the convolutions", str(source)))
    if "parameters" in weights:
        rows.append(("weights", f"{weights['kind']}, {weights['parameters']:,} parameters"))
    if sha256 := weights.get("sha256"):
        rows.append(("weights' SHA-256", sha256))
    if data:
        cases = f", fold {data['fold']}, {len(data['cases'])} cases" if data.get("cases") else ""
        rows.append(("volumes", data["kind"] + cases))
    rows += [
        (
            name,
            f"relative error {made['relative_error']:.2g} (limit {made['limit']}), labels "
            f"agree in {made['label_agreement']:.2%} of voxels",
        )
        for name, made in (("check against fp32", check), ("the same at full size", doc.get("full_size_check")))
        if made
    ]
    if doc["load_seconds"]:
        rows.append(("before timing", ", ".join(f"{name} {seconds:.3g} s" for name, seconds in doc["load_seconds"].items())))
    if doc["warm_up"].get("rule"):
        rows.append(("warm-up", doc["warm_up"]["rule"]))
    if latencies := doc.get("one_at_a_time", {"latency_ms": []})["latency_ms"]:
        rows.append(("latency of calls one at a time", f"{percentile(latencies, 50):.2f} ms, p50 of {len(latencies)}"))
    return rows


def ranks(doc: Results) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the ranks; both empty where one process measured."""
    if not doc["ranks"]:
        return [], []
    heads = ["rank", "where", "host", "device", "calls", "volumes/s", "mean ms", "p90 ms", "peak GiB"]
    return heads, [_rank(cast(Mapping[str, Any], rank)) for rank in doc["ranks"]]


def _rank(rank: Mapping[str, Any]) -> list[str]:
    place = rank.get("place") or {}
    peak = rank.get("peak_host_bytes")
    return [
        str(rank.get("rank", "")),
        str(place.get("name", "")),
        f"{rank.get('host', '')}" + (f", node {rank['node']}" if rank.get("node") else ""),
        str(rank.get("device", "")),
        str(rank.get("calls", "")),
        *(number(value) if (value := rank.get(key)) is not None else "" for key in RANK_FIGURES),
        "" if peak is None else number(peak / 2**30),
    ]


def together(doc: Results) -> str:
    """What the ranks did together; empty where one process measured."""
    pool = doc.get("pool")
    if not pool:
        return ""
    return (
        f"Rank {pool['slowest_rank']} was the slowest: it took {pool['slowest_behind']:.1%} longer than the fastest. All ranks "
        f"were at work for {pool['all_at_work']:.1%} of the window of {number(pool['window_s'])} s."
    )


def compliance(doc: Results) -> Rows:
    """MLPerf's checks with their outcomes; empty where they did not run."""
    told = doc.get("compliance")
    tests = told["tests"] if told else []
    return [(test["name"], f"{'PASSED' if test['passed'] else 'FAILED'}: {test['found']}") for test in tests]


def loadgen(doc: Results) -> Rows:
    """LoadGen's own figures and verdict beside our clock's; empty where it did not run."""
    told: Mapping[str, Any] = cast(Mapping[str, Any], doc.get("loadgen") or {})
    if not told:
        return []
    figures: Mapping[str, Any] = told.get("performance") or {}
    rows = [
        ("LoadGen's verdict", figures.get("verdict")),
        (
            "valid for submission",
            "yes" if told.get("valid_for_submission") else "no: " + "; ".join(told.get("why_not") or ["unknown"]),
        ),
        ("scenario", figures.get("scenario")),
        ("rules, version", f"{told.get('rules', '')}, LoadGen {told.get('version', '')}"),
        ("queries", figures.get("queries")),
    ]
    own, differs = figures.get("own_latency_ms") or {}, figures.get("difference") or {}
    for name, value in (figures.get("latency_ms") or {}).items():
        beside = f" (our clock {number(own[name])} ms, {differs[name]:+.2%})" if name in own and name in differs else ""
        rows.append((f"latency, {name}", f"{number(value)} ms{beside}"))
    if (rate := figures.get("samples_per_second")) is not None:
        rows.append(("samples per second", number(rate)))
    rows.append(("early stopping", figures.get("early_stopping")))
    rows += [("settings", ", ".join(f"{name} {value}" for name, value in (told.get("settings") or {}).items()))]
    rows += [("LoadGen says", problem) for problem in figures.get("problems") or []]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _shown(name: str, value: Value) -> str:
    if name.endswith("_bytes") and isinstance(value, (int, float)):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(part) for part in value)
    return kinds.show(value)
