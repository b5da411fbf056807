"""Where measured calls overlap, a run tells what a call takes with nothing beside it; elsewhere there is nothing to tell."""

import json
from statistics import median

import pytest
import yaml
from made_engine import Thresholds
from made_queues import Queues

import unet3d
from unet3d import cli
from unet3d.engines.pytorch import engine
from unet3d.engines.ring import Ring
from unet3d.measure import one_at_a_time
from unet3d.results import reader
from unet3d.results.report import tables

SMALL = {"platform": "CPU", "precision": "fp32", "jit": "none", "weights": "sample", "volume_shape": "64,32,32"}


@pytest.fixture
def overlapping(monkeypatch):
    """PyTorch's engine on a made-up device, which has the host's memory and arithmetic, and queues."""
    monkeypatch.setattr(engine, "Ring", lambda device, *given, **named: Ring(Queues(), *given, **named))


def test_calls_are_timed_until_the_time_is_up_and_five_at_least(monkeypatch):
    made = Thresholds()
    monkeypatch.setattr(one_at_a_time, "SECONDS", 0.0)
    assert len(one_at_a_time.latencies_ms(made, [0])) == len(made.batches) == 5
    made.pause = 0.02
    monkeypatch.setattr(one_at_a_time, "SECONDS", 0.3)
    latencies = one_at_a_time.latencies_ms(made, [0])
    assert sum(latencies) >= 300 and sum(latencies[:-1]) < 300 and min(latencies) >= 20


def test_a_run_whose_calls_overlap_names_both_latencies(overlapping, tmp_path):
    words = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert cli.main([*words, "--num-iterations", "6", "--output-dir", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert "hidden_ms" in document["samples"]
    latencies = document["one_at_a_time"]["latency_ms"]
    assert len(latencies) >= one_at_a_time.CALLS and len(document["samples"]["latency_ms"]) == 6
    entries = {entry["key"]: entry for entry in yaml.safe_load((tmp_path / "results.yaml").read_text())["results"]}
    [shown] = [text for name, text in tables.ran(document) if name == "latency of calls one at a time"]
    told = entries["latency_one_at_a_time"]
    assert told["unit"] == "ms" and told["value"] == pytest.approx(median(latencies), rel=0.5) and told["value"] in latencies
    assert shown == f"{told['value']:.2f} ms, p50 of {len(latencies)}"
    [line] = [line for line in (tmp_path / "output_raw.log").read_text().splitlines() if "one at a time" in line]
    assert f"{told['value']:.2f} ms (p50 of {len(latencies)} calls)" in line
    assert reader.contradiction(document) is None
    for entry in document["figures"]:
        if entry["key"] == "latency_one_at_a_time":
            entry["value"] *= 0.9
    assert "latency_one_at_a_time" in reader.contradiction(document)
    assert "latency_one_at_a_time" in reader.contradiction({**document, "figures": []})


def test_a_run_in_turn_has_one_latency(tmp_path):
    unet3d.run(output_dir=tmp_path, num_iterations=2, **{**SMALL, "volume_shape": (64, 32, 32)})
    assert "one_at_a_time" not in json.loads((tmp_path / "results.json").read_text())
    assert "one_at_a_time" not in (tmp_path / "results.yaml").read_text()
