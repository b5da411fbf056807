"""results.json of made-up runs, for the tests of compare."""

from dataclasses import asdict

from unet3d.results.timing import Sample, summarise


def document_of(samples, streams=1, ranks=1, **changes):
    """results.json of these samples. changes: further keys at the top."""
    requested = {"platform": "CPU", "precision": "bf16", "batch_size": "1", "streams": str(streams), "output_dir": "/somewhere"}
    doc = {
        "schema_version": 1,
        "complete": True,
        "incomplete_reason": None,
        "started": "2026-03-01T12:00:00+00:00",
        "mode": "performance",
        "scenario": "loop",
        "benchmark": {"version": "1.0.0", "git_commit": "abc", "git_dirty": False},
        "settings": {"requested": requested},
        "effective": {"engine": "torch 2.13.0", "precision": "bf16", "device": "cpu"},
        "volume": {"shape": [4, 224, 224, 160], "standard": True},
        "weights": {"kind": "random", "base_features": 32},
        "data": {"kind": "random"},
        "accuracy": None,
        "memory": {"peak_host_bytes": 2**30, "peak_device_bytes": None},
        "ranks": [{"rank": rank} for rank in range(ranks)] if ranks > 1 else [],
        "environment": {
            "hardware": {"cpu": "A", "usable_cores": 2, "memory_bytes": 2**34, "instructions": ["avx2"]},
            "versions": {"torch": "2.13.0"},
            "variables": {},
        },
        "warnings": [],
        "samples": {
            "start_s": [sample.start for sample in samples],
            "latency_ms": [1e3 * sample.latency for sample in samples],
            "stage_ms": [1e3 * sample.stage for sample in samples],
            "post_ms": [1e3 * sample.post for sample in samples],
            "volumes": [sample.volumes for sample in samples],
            "stream": [sample.stream for sample in samples],
            "rank": [sample.rank for sample in samples],
            "cases": [[] for _ in samples],
        },
        "statistics": asdict(summarise(samples, streams)),
    }
    return {**doc, **changes}


def document(latencies, streams=1, ranks=1, **changes):
    """results.json of calls with these latencies in ms, dealt out to ranks and streams in turn."""
    clock, samples = {}, []
    for index, milliseconds in enumerate(latencies):
        lane = (index % ranks, index // ranks % streams)
        start = clock.get(lane, 0.0)
        clock[lane] = start + milliseconds / 1e3
        samples.append(Sample(start, milliseconds / 1e3, rank=lane[0], stream=lane[1]))
    return document_of(samples, streams, ranks, **changes)
