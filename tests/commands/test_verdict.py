"""The closing sentence of a run."""

import json

import numpy as np
import pytest
from making import record_of, settings_of

from unet3d import files, places
from unet3d.commands import verdict
from unet3d.devices.ceilings import Ceilings, Rate
from unet3d.results import document, reached, reader
from unet3d.results.bootstrap import Ratio
from unet3d.results.timing import Sample


def doc_of(latencies, settings=None, complete=True, **changes):
    record = record_of(settings or settings_of(num_iterations=len(latencies)), **changes)
    starts = np.cumsum([0.0, *latencies[:-1]])
    record.samples = [Sample(start, latency) for start, latency in zip(starts, latencies, strict=True)]
    record.finish(None if complete else "stopped by SIGINT")
    return json.loads(json.dumps(document.document(record)))


def last_in(folder, doc):
    (folder / "results.json").write_text(json.dumps(doc))
    return verdict.last_run(files.move_all_aside(folder, document.FILES))


def latencies(scale=1.0, calls=20):
    return list(scale * (1 + 0.01 * np.random.default_rng(0).standard_normal(calls)))


def test_interval_holds_the_true_rate_and_shrinks_with_calls():
    for calls in (10, 1000):
        text = verdict.verdict(doc_of(latencies(calls=calls)), None)
        value, _, half = text.removesuffix(" volumes/s").split()
        assert abs(float(value) - 1) < 3 * float(half)
        assert float(half) == pytest.approx(3 * 0.01 / np.sqrt(calls), rel=0.9)


def test_calls_of_cases_have_a_verdict_as_random_volumes_have(tmp_path):
    last, now = doc_of(latencies(1.5)), doc_of(latencies())
    for doc in (last, now):
        doc["samples"]["cases"] = [["HGG__a"] for _ in doc["samples"]["cases"]]
    text = verdict.verdict(now, last_in(tmp_path, last))
    assert text.endswith(" volumes/s, 1.50 times the last run here")


def test_ceiling_and_last_run_are_named_where_they_are_known(tmp_path):
    last = last_in(tmp_path, doc_of(latencies(1.5)))
    ceiling = Ceilings("cpu", "fp32", 1, 2.0, 10.0, "matrix product")
    text = verdict.verdict(doc_of(latencies(), ceilings=ceiling), last)
    assert text.endswith(" volumes/s, 50% of this machine's ceiling, 1.50 times the last run here")


def test_more_than_the_ceiling_is_explained():
    text = verdict.verdict(doc_of(latencies(), ceilings=Ceilings("cpu", "fp32", 1, 0.8, 10.0, "matrix product")), None)
    assert text.endswith("1.25 times this machine's ceiling for direct convolutions, whose FLOP are counted")


def machine(fp32=2.0, bf16=8.0):
    """fp32's library reaches half of the hardware."""
    hardware = (Rate("fp32", fp32, "AVX-512 FMA in registers"), Rate("bf16", bf16, "AMX bf16 in registers"))
    return Ceilings("cpu", "bf16", 1, bf16 / 2, 10.0, "matrix product", hardware)


def test_the_share_is_of_the_hardware_by_what_was_executed():
    """A volume a second of 1 nominal TFLOP: 0.2 s of products in fp32 and 0.05 s in bf16 at the hardware's best."""
    text = verdict.verdict(doc_of(latencies(), ceilings=machine(), executed_tflop={"fp32": 0.4, "bf16": 0.4}), None)
    assert text.endswith("25% of the hardware ceiling (0.8 TFLOP executed per volume of 1 nominal)")


def test_more_than_the_hardware_is_explained():
    slow = machine(fp32=0.2)
    text = verdict.verdict(doc_of(latencies(), ceilings=slow, executed_tflop={"fp32": 0.4}), None)
    assert "2.00 times the hardware ceiling" in text and "other work slowed the ceiling's measurement" in text


def of_gpu(tflops):
    """As a run on a GPU notes it: the best of the library's products, in large calls."""
    how = "best of a library's 3x3x3 convolution, in large calls"
    return Ceilings("cuda", "fp16", None, tflops, 3000.0, "3x3x3 convolution", (Rate("fp16", tflops, how),))


def test_a_gpus_ceiling_is_a_librarys():
    text = verdict.verdict(doc_of(latencies(), ceilings=of_gpu(2.0), executed_tflop={"fp16": 1.0}), None)
    assert text.endswith("50% of the library ceiling (1 TFLOP executed per volume of 1 nominal)")
    faster = verdict.verdict(doc_of(latencies(), ceilings=of_gpu(0.5), executed_tflop={"fp16": 1.0}), None)
    assert "2.00 times the library ceiling" in faster and faster.endswith("the library used for it is slower than what ran")


def test_committed_results_of_gpus_are_told_rightly():
    docs = [doc for file in places.REFERENCE_RESULTS.glob("*nvidia*.json") if "ceilings" in (doc := reader.read(file))]
    assert docs
    for doc in docs:
        assert reached.of(doc).name == "library ceiling"
        [told] = [note for note in reached.notes(doc) if f"ceiling of {doc['ceilings']['precision']}:" in note]
        assert told.startswith("Library ceiling") and "best of a library's" in told


def test_without_the_hardwares_the_librarys_is_named():
    library = Ceilings("cpu", "fp32", 1, 0.5, 10.0, "matrix product")
    text = verdict.verdict(doc_of(latencies(), ceilings=library, executed_tflop={"fp32": 0.4}), None)
    assert text.endswith("80% of the library ceiling (0.4 TFLOP executed per volume of 1 nominal)")
    faster = verdict.verdict(doc_of(latencies(), ceilings=library, executed_tflop={"fp32": 1.0}), None)
    assert "2.00 times the library ceiling" in faster and "slower than what ran" in faster
    # A type that has no ceiling leaves no share that could be told.
    assert "ceiling" not in verdict.verdict(doc_of(latencies(), ceilings=library, executed_tflop={"bf16": 1.0}), None)


def test_a_difference_within_noise_is_called_so(tmp_path):
    text = verdict.verdict(doc_of(latencies()), last_in(tmp_path, doc_of(latencies()[::-1])))
    assert text.endswith("1.00 times the last run here (within noise)")


def test_few_calls_have_no_interval(tmp_path):
    few = doc_of([1.0, 1.0], settings_of(num_iterations=2))
    text = verdict.verdict(few, last_in(tmp_path, few))
    assert text == "1 volumes/s, 1.00 times the last run here (fewer calls than tell noise)"


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"batch_size": 2}},
        {"settings": {"streams": 2, "threads": 2}},
        {"settings": {"volume_shape": "64,64,64"}},
        {"complete": False},
        {"environment": {"hardware": {"cpu": "another"}}},
    ],
)
def test_a_last_run_of_something_else_is_not_compared(tmp_path, other):
    settings = settings_of(**{"num_iterations": 20, **other.pop("settings", {})})
    last = last_in(tmp_path, doc_of(latencies(), settings, **other))
    assert last is not None
    assert "last run" not in verdict.verdict(doc_of(latencies()), last)


def test_where_results_are_printed_does_not_matter(tmp_path):
    last = last_in(
        tmp_path, doc_of(latencies(), settings_of(num_iterations=20, output_dir=tmp_path, status_prints=3, verbose="yes"))
    )
    assert "last run" in verdict.verdict(doc_of(latencies()), last)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 0}'])
def test_earlier_results_that_cannot_be_read_are_no_obstacle(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    assert verdict.last_run(files.move_all_aside(tmp_path, document.FILES)) is None


def test_nothing_measured_is_no_verdict():
    record = record_of(settings_of())
    assert verdict.verdict(json.loads(json.dumps(document.document(record))), None) is None


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.11432, 0.00123, "0.114 ± 0.001"),
        (71.832, 0.94, "71.8 ± 0.9"),
        (1234.5, 30.0, "1234 ± 30"),
        (2.0, 0.0, "2"),
        (0.02381, 0.02, "0.0238 (0.0038 to 0.044)"),
    ],
)
def test_value_and_interval_have_the_same_digits(value, half, text):
    assert verdict.with_interval(Ratio(value, value - half, value + half)) == text
