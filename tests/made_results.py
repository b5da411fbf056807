"""Whole results.json documents for tests, written as a run writes them, without a run."""

import itertools

from making import effective, record_of, settings_of, weights_facts

from unet3d.brats import regions
from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.results import document
from unet3d.results.facts import Dice, RunWarning, VolumesFacts
from unet3d.results.timing import Sample

CASES = {
    "HGG__a": {"WT": 0.9, "TC": 0.8, "ET": 0.7},
    "HGG__b": {"WT": 0.95, "TC": 0.9, "ET": None},
    "LGG__c": {"WT": 0.5, "TC": 0.4, "ET": 0.1},
}


def samples(latencies, streams=1, ranks=1):
    """Samples of calls with these latencies in ms, dealt out to ranks and streams in turn."""
    clock, made = {}, []
    for index, milliseconds in enumerate(map(float, latencies)):
        lane = (index % ranks, index // ranks % streams)
        start = clock.get(lane, 0.0)
        clock[lane] = start + milliseconds / 1e3
        made.append(Sample(start, milliseconds / 1e3, rank=lane[0], stream=lane[1]))
    return made


def results(latencies=(100.0, 110.0, 90.0), streams=1, ranks=1, settings=None, **changes):
    """results.json of calls with these latencies in ms, with parts of it replaced."""
    return results_of(samples(latencies, streams, ranks), streams, ranks, settings, **changes)


def results_of(calls, streams=1, ranks=1, settings=None, **changes):
    """results.json of these samples, with parts of it replaced."""
    chosen = {"precision": "bf16", "network": "reference", "threads": max(4, streams), **(settings or {})}
    record = record_of(
        settings_of(streams=streams, num_iterations=len(calls) or 1, **chosen),
        command=["predict.py"],
        weights=weights_facts(base_features=32),
        effective=effective(engine="torch 2.13.0", precision="bf16", network="reference"),
        environment={
            "git_commit": "abc",
            "git_dirty": False,
            "hardware": {"cpu": "A", "logical_cpus": 4},
            "versions": {"torch": "2.13.0"},
            "variables": {},
        },
        samples=list(calls),
        ranks=[{"rank": rank} for rank in range(ranks)] if ranks > 1 else [],
    )
    record.finish()
    return {**document.document(record), **changes}


def dice_of_cases(cases):
    """`accuracy` of results.json for the scores of some cases."""
    summary = regions.summarise(list(cases.values()))
    return {**summary.means, "total": summary.total, "undefined": summary.undefined, "cases": cases, "weights": "sample"}


def full():
    """A document with every section that a run may have: accuracy, telemetry, profile, ceilings, LoadGen, compliance,
    ranks."""
    record = record_of(
        settings_of(precision="bf16", network="reference", num_iterations=4, threads=4),
        command=["predict.py", "--dataset-dir", "data"],
        weights=weights_facts("sample", sha256="0" * 64),
        effective=effective(engine="torch 2.13.0", precision="bf16", details={"class": "CpuUNet", "threads": [1, 2]}),
        data=VolumesFacts("synthetic sample data", fold=1, cases=list(CASES), standard_names=False, names_sha256="1" * 64),
        environment={
            "git_commit": "abc",
            "git_dirty": True,
            "hardware": {"cpu": "A", "logical_cpus": 4, "memory_bytes": 2**34, "container": False, "frequency_governor": None},
            "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
            "variables": {"OMP_PLACES": "cores"},
        },
        load_seconds={"build": 1.5, "compile": 0.25},
        samples=samples([100, 120, 90, 95], ranks=2),
        warnings=[RunWarning("few-samples", "4 calls were timed.", "Raise NUM_ITERATIONS.")],
        figures=[("cpu_utilisation", 75.0, "percents")],
        accuracy=Dice(**{name: dice_of_cases(CASES)[name] for name in ("total", "undefined", "cases")}, means=_means()),
        ceilings=Ceilings("cpu", "bf16", 4, 2.5, 40.0, "matrix product", (Rate("bf16", 6.0, "AVX512-BF16 in registers"),)),
        executed_tflop={"bf16": 0.9},
        telemetry={
            "samples": 2,
            "series": {"time_s": [1.0, 2.0], "cpu_utilisation_percent": [50.0, None], "cpu_power_w": [40.0, 41.0]},
            "summary": {"cpu_utilisation_percent": {"mean": 50.0, "min": 50.0, "max": 50.0}},
            "period_s": 1.0,
            "window_s": 2.0,
            "sampling_share": 0.001,
            "absent": ["CPU temperature (no sensor)"],
            "energy": {"joules": {"RAPL": 10.0}, "volumes": 4, "joules_per_volume": {"RAPL": 2.5}, "covers": "the window"},
        },
        profile=[
            {
                "name": name,
                "shapes": [[1, 32, 8, 8, 8], []],
                "ms": ms,
                "flop": 10**9,
                "bytes": 10**6,
                "share_of_time": 0.5,
                "share_of_matmul": 0.4,
                "ceiling": "hardware",
                "share_of_copy": None,
                "products": "bf16",
                "executed_flop": 10**9,
                "layer": layer,
                "kernel": layer and "void kernel<float>(Params)",
            }
            for name, ms, layer in (("aten::conv3d", 10.0, "encoder.0.0"), ("outside operators", 5.0, None))
        ],
        loadgen={
            "version": "6.0.17",
            "rules": "MLPerf Inference v1.1",
            "settings": {"min_queries": 64, "schedule_rng_seed": 10051496985653635065},
            "valid_for_submission": False,
            "why_not": ["too few"],
            "performance": {
                "scenario": "SingleStream",
                "latency_ms": {"p90": 100.0},
                "own_latency_ms": {"p90": 101.0},
                "difference": {"p90": 0.01},
            },
        },
        compliance={
            "passed": True,
            "tests": [{"name": "TEST01", "passed": True, "found": "labels agree", "figures": {"label_agreement": 1.0}}],
        },
        pool={
            "ranks": 2,
            "nodes": 1,
            "window_s": 0.3,
            "start_skew_s": 0.0,
            "all_at_work": 0.9,
            "slowest_rank": 0,
            "slowest_behind": 0.1,
        },
        ranks=[{"rank": rank, "node": 0, "host": "one", "calls": 2, "latency_mean_ms": 100.0} for rank in range(2)],
    )
    record.finish()
    return document.document(record)


def _means():
    return {region: dice_of_cases(CASES)[region] for region in regions.REGIONS}


def places(value, before=()):
    """The path of every key and item in a document, and of the document itself."""
    yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield from itertools.chain.from_iterable(places(item, (*before, key)) for key, item in items)


def replaced(value, place, new):
    """A copy of a document with one value replaced."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


def closed(node):
    """A JSON Schema that allows no key which is not declared, from one that does: what is written has no other."""
    if isinstance(node, dict):
        inner = {name: closed(part) for name, part in node.items()}
        # A mapping that is left open has no description of its own.
        return {**inner, "additionalProperties": False} if {"properties", "description"} <= set(node) else inner
    return [closed(part) for part in node] if isinstance(node, list) else node
