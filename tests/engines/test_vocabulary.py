"""All engines name devices and networks alike, and what they write is what the schema declares."""

import fastjsonschema
import pytest
from made_results import closed

import unet3d
from unet3d.ranks import pool
from unet3d.results import json_schema
from unet3d.results.record import Record
from unet3d.results.report import content

PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "torch": "torch"}
CLOSED = fastjsonschema.compile(closed(json_schema.document()))


@pytest.mark.parametrize(
    ("engine", "network", "ran"),
    [
        ("torch", "fast", "fast"),
        ("torch", "reference", "reference"),
        ("openvino", "fast", "fast"),
        ("onnxruntime", "fast", "reference"),  # it runs what the exporter makes of nnU-Net's own
    ],
)
def test_engines_share_one_vocabulary(engine, network, ran):
    pytest.importorskip(PACKAGES[engine])
    settings = {"platform": "CPU", "precision": "fp32", "weights": "sample", "volume_shape": (64, 32, 32), "warm_up": 0}
    doc = unet3d.run(engine=engine, network=network, num_iterations=1, jit="none", **settings).document
    CLOSED(doc)
    assert (doc["effective"]["device"], doc["effective"]["network"]) == ("cpu", ran)
    assert doc["settings"]["requested"]["network"] == network
    cpu = doc["environment"]["hardware"]["cpu"]
    assert content.context(doc, None)["title"] == cpu and "CPU" not in {cpu}


def test_the_machine_is_what_the_process_saw_that_started_ranks():
    """A rank is bound to its own cores; results of two told of one usable core."""
    record = Record(None)
    record.environment["hardware"] = {"cpu": "A", "usable_cores": 2}
    fields = {name: getattr(record, name) for name in pool.FIELDS}
    fields["environment"] = {"git_commit": "abc", "hardware": {"cpu": "A", "usable_cores": 1, "device": "a GPU"}}
    pool.take_over(record, fields)
    assert record.environment == {"git_commit": "abc", "hardware": {"cpu": "A", "usable_cores": 2, "device": "a GPU"}}


@pytest.mark.parametrize(
    ("platform", "effective", "hardware", "title"),
    [
        ("CPU", {"device": "cpu"}, {"cpu": "Xeon"}, "Xeon"),
        ("CPU", {}, {"cpu": "Xeon"}, "Xeon"),
        ("CUDA", {"device": "cuda:0"}, {"cpu": "Xeon", "device": "H100"}, "H100"),
        ("CUDA", {"device": "cuda:0"}, {"cpu": "Xeon"}, "cuda:0"),
    ],
)
def test_reports_are_titled_with_what_ran(platform, effective, hardware, title):
    doc = {"effective": effective, "environment": {"hardware": hardware}, "settings": {"requested": {"platform": platform}}}
    assert content._title(doc) == title
