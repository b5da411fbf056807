"""results.json of made-up runs of the benchmark's volume on a machine, for the tests of compare."""

from made_results import results_of, samples

MACHINE = {"cpu": "A", "usable_cores": 2, "memory_bytes": 2**34, "instructions": ["avx2"]}


def document_of(calls, streams=1, ranks=1, **changes):
    """results.json of these samples. changes: further keys at the top."""
    doc = results_of(calls, streams, ranks, started="2026-03-01T12:00:00+00:00")
    doc["environment"]["hardware"] |= MACHINE
    doc["memory"] = {"peak_host_bytes": 2**30, "peak_device_bytes": None}
    doc["volume"] = {"shape": [4, 224, 224, 160], "standard": True, "tflop": 3.7}
    doc["statistics"]["tflops"] = 3.7 * doc["statistics"]["throughput"]
    return {**doc, **changes}


def document(latencies, streams=1, ranks=1, **changes):
    """results.json of calls with these latencies in ms, dealt out to ranks and streams in turn."""
    return document_of(samples(latencies, streams, ranks), streams, ranks, **changes)
