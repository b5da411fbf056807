"""results.json read back: what a run wrote is taken, of either version; everything else is one line."""

import json
import os
import threading
from pathlib import Path

import fastjsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import closed, dice_of_cases, full, places, replaced, results, results_of

from unet3d import cli
from unet3d.config.settings import SETTINGS
from unet3d.errors import UserError
from unet3d.results import json_schema, reader, validation
from unet3d.results.report import tables
from unet3d.results.schema import Requested
from unet3d.results.timing import Sample

VERSION_1 = Path(__file__).with_name("data") / "version1.json"
FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
SCHEMA = json_schema.document()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**25, -(2**63), 1e308, -1e-320, 1.5, 1e999, -0.0]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["cpu", "$x$", "\ud800", "\x00\x1b[31m", "<b>|`", "9" * 300, "~"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def file(tmp_path):
    return tmp_path / "results.json"


def refused(path):
    """The one line of a refusal."""
    with pytest.raises(UserError) as caught:
        reader.read(path)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000
    return text


@pytest.mark.parametrize("doc", [results(), results(streams=3), results(ranks=2), full()])
def test_what_a_run_writes_is_read_as_it_is(file, doc):
    file.write_text(json.dumps(doc))
    assert reader.read(file) == doc
    fastjsonschema.compile(closed(SCHEMA))(doc)


def test_the_shipped_schema_is_that_of_the_declaration():
    assert json_schema.FILE.read_text(encoding="utf-8") == json_schema.text(), "run python -m unet3d.results.json_schema"
    assert set(Requested.__annotations__) == {setting.name for setting in SETTINGS}


def test_version_1_is_turned_into_version_2(file):
    doc = reader.read(VERSION_1)
    fastjsonschema.compile(closed(SCHEMA))(doc)
    asked = doc["settings"]["requested"]
    assert doc["schema_version"] == 2
    assert (asked["num_iterations"], asked["ipex"], asked["volume_shape"], asked["jit"]) == (6, False, [64, 32, 32], "none")
    assert (asked["scaling"], asked["dataset_dir"], asked["num_images"]) == (None, None, "all")
    assert (doc["effective"]["device"], doc["effective"]["network"]) == ("cpu", "fast")
    assert doc["effective"]["details"]["class"] == "CpuUNet"
    old = json.loads(VERSION_1.read_text())
    for device, network, shared in (
        ("CPU", "reference", ("cpu", "reference")),
        ("xpu as OpenVINO's GPU.0", "fast", ("xpu:0", "fast")),
    ):
        file.write_text(json.dumps({**old, "effective": {**old["effective"], "device": device, "network": network}}))
        assert (reader.read(file)["effective"]["device"], reader.read(file)["effective"]["network"]) == shared


@settings(max_examples=300, **FUZZ)
@given(data=st.data())
def test_our_validation_is_that_of_json_schema(data):
    """Against fastjsonschema, for a document with any value replaced by any other."""
    doc = full()
    changed = replaced(doc, data.draw(st.sampled_from(list(places(doc)))), data.draw(VALUES))
    try:
        REFERENCE(changed)
        expected = True
    except fastjsonschema.JsonSchemaException:
        expected = False
    try:
        validation.validate(changed, SCHEMA)
        ours = True
    except validation.Fault:
        ours = False
        if expected:  # what ours refuses besides is no JSON: NaN, which no limit stops there, and text that is no Unicode
            with pytest.raises(ValueError, match="JSON compliant|surrogates not allowed"):
                json.dumps(changed, ensure_ascii=False, allow_nan=False).encode("utf-8")
            return
    assert ours == expected


REFERENCE = fastjsonschema.compile(SCHEMA)


@settings(max_examples=150, **FUZZ)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_refused_in_one_line(data, tmp_path):
    old = data.draw(st.booleans())
    doc = json.loads(VERSION_1.read_text()) if old else full()
    changed = replaced(doc, data.draw(st.sampled_from(list(places(doc)))), data.draw(VALUES))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed))
    try:
        reader.read(path)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is not JSON"),
        ("\xff", "it is not JSON"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 3}', "schema_version is 3, 1 or 2 is expected"),
        ('{"schema_version": true}', "schema_version is True"),
        ('{"schema_version": 2}', "complete is missing"),
        ('{"schema_version": 1, "samples": {}}', "complete is missing"),
        ('{"a": NaN}', "it holds NaN"),
        ('{"a": -Infinity}', "it holds -Infinity"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        (DEEP, "nested too deep"),
        (f'{{"a": {DEEP}}}', "nested too deep"),
        ("9" * 5000, "it is not JSON"),
    ],
)
def test_what_is_no_result_is_told_what_it_is(file, content, told):
    file.write_bytes(content.encode("latin-1"))
    assert told in refused(file)


def test_forms_of_convolutions_and_where_their_choice_is_from_are_known(file):
    doc = full()
    doc["effective"]["details"] |= {
        "convolution_forms": {"encoder.0.0": "first, fp16 products"},
        "convolution_forms_from": "tuned on this card, 2026-11-24",
    }
    file.write_text(json.dumps(doc))
    assert reader.read(file) == doc
    fastjsonschema.compile(closed(SCHEMA))(doc)
    assert ("forms of the convolutions", "tuned on this card, 2026-11-24") in tables.ran(doc)
    for key, wrong in (("convolution_forms", ["first"]), ("convolution_forms", {"head": 1}), ("convolution_forms_from", 7)):
        other = json.loads(json.dumps(doc))
        other["effective"]["details"][key] = wrong
        file.write_text(json.dumps(other))
        assert f"effective.details.{key}" in refused(file)


@pytest.mark.parametrize("place", [("environment", "hardware", "x"), ("x",), ("effective", "details", "x"), ("telemetry", "x")])
def test_values_may_be_nested_but_not_without_end(file, place):
    for depth, good in ((8, True), (200, False)):
        value = 1
        for _ in range(depth):
            value = [value]
        doc = full()
        inner = doc
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        file.write_text(json.dumps(doc))
        if good:
            reader.read(file)
        else:
            assert "nested" in refused(file)


def changed_by(doc, *place, by=1.01):
    value = doc
    for key in place:
        value = value[key]
    return replaced(doc, place, value * by)


@pytest.mark.parametrize(
    "place",
    [
        *(
            ("statistics", name)
            for name in ("throughput", "throughput_with_overhead", "mean", "p50", "p90", "p99", "min", "max")
        ),
        *(("statistics", name) for name in ("median", "latency_with_overhead", "tflops", "stdev", "cv")),
        ("samples", "latency_ms", 1),
        ("accuracy", "WT"),
        ("accuracy", "cases", "HGG__a", "ET"),
    ],
)
def test_a_figure_that_the_samples_do_not_give_is_refused(file, place):
    file.write_text(json.dumps(changed_by(full(), *place)))
    assert "do not belong together" in refused(file)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("samples", "stage_ms"), [0.0], "4 latency_ms and 1 stage_ms"),
        (("samples", "rank"), [0, 0, 0, 7], "rank 7"),
        (("statistics", "calls"), 5, "statistics.calls is 5"),
        (("statistics",), None, "4 samples and no statistics"),
        (("telemetry", "series", "cpu_power_w"), [1.0], "2 time_s and 1 cpu_power_w"),
        (("volume", "standard"), True, "volume.standard is True"),
        (("incomplete_reason",), "stopped", "it is complete and has an incomplete_reason"),
        (("memory",), {}, "it is complete and has no memory"),
        (("planned_calls",), 10**6, "it is complete with 4 calls of 1000000"),
        (("settings", "requested", "num_iterations"), 5, "it is complete with 4 calls of 5"),
        (("finished",), None, "finished None"),
        (("finished",), "1970-01-01T00:00:00+00:00", "finished 1970"),
        (("check", "relative_error"), 2.0, "an error of 2, 1 is allowed"),
        (("check", "finite"), False, "its check against fp32"),
        (("samples", "stream"), [3] * 4, "samples are of stream 3, there are 1 streams"),
        (("weights", "kind"), "random", "weights of the kind random have the SHA-256 000"),
        (("weights", "kind"), "mlperf", "weights.kind is mlperf"),
        (("weights", "sha256"), None, "weights of the kind sample have the SHA-256 None"),
        (("ranks",), [{"rank": 0}, {"rank": 0}], "its 2 ranks are not numbered"),
        (("telemetry", "summary", "cpu_utilisation_percent", "max"), 99.0, "is 50 to 99, its readings are 50 to 50"),
        (("telemetry", "energy", "joules_per_volume", "RAPL"), 1.0, "10 J of 4 volumes give 2.5"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(file, place, value, told):
    file.write_text(
        json.dumps(
            replaced(full() if place[-1] != "standard" else results(settings={"volume_shape": "64,64,64"}), place, value)
        )
    )
    assert told in refused(file)


@pytest.mark.parametrize("value", [float("inf"), 1e999, -1.0, 0.0, 1e300, True, "100", None, [100.0]])
@pytest.mark.parametrize("name", ["latency_ms", "start_s", "stage_ms", "volumes"])
def test_samples_are_finite_numbers_that_a_clock_can_give(file, name, value):
    if (name, value) in (("start_s", 0.0), ("start_s", -1.0), ("stage_ms", 0.0)):
        return
    file.write_text(json.dumps(replaced(full(), ("samples", name, 2), value)))
    told = refused(file)
    assert f"samples.{name}[2]" in told or "it holds Infinity" in told


def test_calls_of_more_volumes_than_a_batch_are_refused(file):
    file.write_text(json.dumps(results_of([Sample(0.0, 0.1, volumes=7)])))
    assert "calls of 7 volumes with batch_size 1" in refused(file)


@pytest.mark.parametrize("value", ["yesterday", "99999-01-01T00:00:00+00:00", "2026-03-01", "2026-03-01T10:00:00+00:00<b>"])
def test_times_are_times(file, value):
    file.write_text(json.dumps(replaced(full(), ("started",), value)))
    assert "started: " in refused(file)


def test_incomplete_documents_are_read(file):
    doc = full()
    doc |= {"complete": False, "incomplete_reason": "stopped by SIGINT", "statistics": None, "accuracy": None, "check": None}
    doc |= {name: {} for name in ("effective", "weights", "data", "warm_up", "memory", "environment", "load_seconds")}
    doc["samples"] = {name: [] for name in doc["samples"]}
    file.write_text(json.dumps(doc))
    assert reader.read(file)["statistics"] is None


def test_pipes_devices_folders_and_endless_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("fifo", "huge", "link", "", "absent", "/dev/zero", "/dev/stdin", "/proc/self/mem"):
        told = []
        reading = threading.Thread(target=lambda name=name, told=told: told.append(refused(tmp_path / name)), daemon=True)
        reading.start()
        reading.join(20)
        assert told, f"{name!r} is still being read"


def test_means_without_a_case_and_cases_without_a_mean(file):
    cases = {"a": {"WT": None, "TC": None, "ET": None}}
    file.write_text(json.dumps({**full(), "accuracy": dice_of_cases(cases)}))
    assert reader.read(file)["accuracy"]["total"] is None
    file.write_text(json.dumps({**full(), "accuracy": {**dice_of_cases(cases), "WT": 0.9}}))
    assert "accuracy.WT is 0.9" in refused(file)


@pytest.mark.parametrize("words", [["report", "{}"], ["compare", "{}", "{}"]])
def test_verbs_tell_it_in_one_line_with_2(file, words, capsys):
    file.write_text(json.dumps(replaced(full(), ("statistics", "throughput"), 1e9)))
    assert cli.main([word.format(file) for word in words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
