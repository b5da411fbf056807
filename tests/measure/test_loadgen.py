"""LoadGen paces the runs: its clock and ours agree, its accuracy log scored as MLPerf does gives our Dice."""

import importlib.util
import json
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import making
import numpy as np
import pytest
import yaml
from made_engine import Thresholds

from unet3d import cli
from unet3d.brats import dataset, preprocessing, sample_data
from unet3d.brats.volumes import CaseVolumes, RandomVolumes
from unet3d.errors import UserError
from unet3d.measure import accuracy
from unet3d.measure.loadgen import accuracy as loadgen_accuracy
from unet3d.measure.loadgen import logs, performance, session
from unet3d.measure.loadgen.harness import Harness
from unet3d.measure.prepare import Input
from unet3d.planning import mlperf
from unet3d.planning.group import SingleProcess
from unet3d.results import document
from unet3d.results.console import Console
from unet3d.results.facts import VolumesFacts

SHAPE = (64, 64, 64)
TINY = (48, 48, 31)
needs_loadgen = pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason=mlperf.INSTALL)


class Overlapping(Thresholds):
    """The same with three calls under way; a call is made when it is waited for."""

    depth = 3

    def start(self, staged, slot):
        self.calls = {**getattr(self, "calls", {}), slot: staged}

    def finish(self, slot):
        output = self.infer(self.calls[slot])
        done = SimpleNamespace(labels=self.labels(output), latency=0.002, post=0.001, seconds_since=lambda earlier: 0.0025)
        return done


def settings_of(folder, **variables):
    return making.settings_of(volume_shape="64,64,64", output_dir=folder, precision="fp32", **variables)


def asked_of(settings, cases=None):
    return mlperf.loadgen_run(settings, len(cases.names) if cases else 1, "random", False)


def measure(settings, engine, out, given, cases=None):
    """LoadGen's performance mode as a run does it: the samples, and what its log says."""
    asked, samples = asked_of(settings, cases), []
    given = Input(given, VolumesFacts(kind="random"), cases)
    folder = performance.measure(asked, settings, engine, given, 0.005, samples.append, out)
    return samples, performance.read_log(asked, folder, samples, out)


@pytest.fixture
def out():
    return Console(stream=SimpleNamespace(write=lambda text: None, flush=lambda: None))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=5, size=TINY, processes=1)
    store = preprocessing.Store(folder / "store", SHAPE)
    preprocessing.preprocess(folder, store.folder, processes=1, padded_shape=SHAPE)
    by_name = {case.name: case for case in dataset.find_cases(folder)}
    return accuracy.Cases(sorted(by_name), by_name, store)


def test_defaults_are_those_of_the_last_round_with_this_benchmark(tmp_path):
    standard = {"volume_shape": "224,224,160"}
    single, offline = (
        mlperf.loadgen_run(making.settings_of(scenario=scenario, **standard), 67, "mlperf", False)
        for scenario in ("SingleStream", "Offline")
    )
    assert (single.queries, single.duration_s, single.performance_samples) == (1024, 600, 16)
    assert (offline.queries, offline.duration_s, offline.performance_samples) == (24576, 600, 16)
    assert single.departures == offline.departures == ("random volumes",)
    whole = replace(making.settings_of(scenario="Offline", **standard), dummy=False)
    assert mlperf.loadgen_run(whole, 67, "mlperf", True).departures == ()


def test_shorter_runs_say_what_they_lack(tmp_path):
    plan = mlperf.loadgen_run(settings_of(tmp_path, scenario="SingleStream", num_iterations="7"), 3, "sample", False)
    assert plan.limited and plan.queries == 7
    text = "; ".join(plan.departures)
    for part in (
        "7 queries instead of 1024",
        "0 s instead of 600 s",
        "3 different volumes instead of 16",
        "(64, 64, 64)",
        "random volumes",
        "weights: sample",
    ):
        assert part in text
    longer = mlperf.loadgen_run(
        settings_of(tmp_path, scenario="Offline", num_iterations="7", min_duration="30", batch_size="2"), 3, "sample", False
    )
    assert (longer.queries, longer.duration_s, longer.limited) == (14, 30, False)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--scenario", "SingleStream", "--batch-size", "2"], "BATCH_SIZE=1 or SCENARIO=Offline"),
        (["--scenario", "SingleStream", "--streams", "2"], "STREAMS=1 or SCENARIO=Offline"),
        (["--min-duration", "5"], "use SCENARIO=SingleStream or Offline"),
        (["--scenario", "Server"], "use Default, SingleStream, Offline"),
    ],
)
def test_settings_that_no_scenario_runs(words, part, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "output"))
    assert cli.main(words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and part in errors[0]
    assert not (tmp_path / "output").exists()


def test_several_processes_are_not_loadgens():
    asked = replace(making.settings_of(), scenario="Offline", multi_tile=True, instances=2)
    assert any("MULTI_TILE, INSTANCES with SCENARIO=Offline" in text for text in mlperf.refuse_settings(asked))
    assert mlperf.refuse_settings(replace(asked, multi_tile=False, instances=1)) == mlperf.refuse_settings(
        replace(asked, multi_tile=False, instances=None)
    )


def test_without_the_package_the_pip_line_is_told(capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "mlperf_loadgen" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    assert cli.main(["--scenario", "Offline", "--output-dir", str(tmp_path)]) == 2
    assert "pip install -r requirements-loadgen.txt" in capsys.readouterr().err
    requirements = (Path(__file__).parents[2] / "requirements-loadgen.txt").read_text()
    assert requirements.startswith("mlcommons-loadgen==")


@needs_loadgen
def test_single_stream_latency_is_ours(tmp_path, out):
    settings = settings_of(tmp_path, scenario="SingleStream", num_iterations="64", status_prints="4")
    engine = Thresholds(pause=0.03)
    samples, measured = measure(settings, engine, out, RandomVolumes(1, SHAPE, 0))
    section = measured.section
    assert engine.batches == [1] * 64 == [sample.volumes for sample in samples]
    assert section["performance"]["verdict"] == "VALID" and section["performance"]["queries"] == 64
    assert abs(section["performance"]["difference"]["p90"]) < 0.02
    assert section["performance"]["latency_ms"]["min"] >= 30
    assert section["valid_for_submission"] is False
    assert measured.told.warnings[-1].name == "not-valid-for-submission"
    assert (tmp_path / "loadgen" / "performance" / "mlperf_log_summary.txt").stat().st_size
    record = making.record_of(settings, loadgen=section, samples=samples)
    record.figures += measured.told.figures
    record.finish()
    doc = document.write(record, tmp_path)
    assert doc["scenario"] == "SingleStream"
    written = yaml.safe_load((tmp_path / "results.yaml").read_text())
    rows = {row["key"]: row["value"] for row in written["results"]}
    assert rows["loadgen_latency_p90"] == pytest.approx(rows["latency_p90"], rel=0.5)
    assert written["run"]["scenario"] == "SingleStream" and written["run"]["valid_for_submission"] is False


@needs_loadgen
def test_a_second_run_keeps_the_first_ones_logs(tmp_path, out):
    for _ in range(2):
        settings = settings_of(tmp_path, scenario="SingleStream", num_iterations="2")
        measure(settings, Thresholds(), out, RandomVolumes(1, SHAPE, 0))
    assert len(list((tmp_path / "loadgen").glob("performance*/mlperf_log_detail.txt"))) == 2


def test_percentile_is_taken_as_loadgen_does():
    """LoadGen's results.cc indexes the sorted latencies with n * 0.9, cut to a whole number."""
    samples = [SimpleNamespace(latency=value / 1e3) for value in range(10, 0, -1)]
    assert performance.own_latency(samples) == {"mean": pytest.approx(5.5), "p90": pytest.approx(10)}
    assert performance.own_latency(samples[:5])["p90"] == pytest.approx(10)


@needs_loadgen
@pytest.mark.parametrize("streams", ["1", "2"])
def test_offline_sends_every_volume_in_batches(tmp_path, out, cases, streams):
    settings = settings_of(tmp_path, scenario="Offline", num_iterations="4", batch_size="3", streams=streams)
    engine = Thresholds(pause=0.001)
    samples, measured = measure(settings, engine, out, CaseVolumes(cases.store, cases.names, 3), cases)
    assert engine.batches == [3] * 4
    assert sum(sample.volumes for sample in samples) == 12
    assert {name for sample in samples for name in sample.cases} <= set(cases.names)
    assert {sample.stream for sample in samples} <= set(range(int(streams)))
    assert measured.section["performance"]["samples_per_second"] > 0
    assert ("loadgen_samples_per_second", "img/s") in {(key, unit) for key, _, unit in measured.told.figures}


@needs_loadgen
@pytest.mark.parametrize("batch", ["1", "3"])
def test_offline_overlaps_the_calls_of_an_engine_that_can(tmp_path, out, cases, batch):
    settings = settings_of(tmp_path, scenario="Offline", num_iterations="8", batch_size=batch)
    engine = Overlapping()
    samples, measured = measure(settings, engine, out, CaseVolumes(cases.store, cases.names, int(batch)), cases)
    assert engine.batches == [int(batch)] * 8
    assert len(samples) == 8 and sum(sample.volumes for sample in samples) == 8 * int(batch)
    assert {sample.latency for sample in samples} == {0.002}
    assert all(sample.stage + sample.latency + sample.post - sample.hidden == pytest.approx(0.0025) for sample in samples[1:])
    assert measured.section["performance"]["samples_per_second"] > 0 and len({sample.cases for sample in samples}) > 1


@needs_loadgen
def test_what_an_overlapped_call_raises_comes_out_and_ends_the_run(tmp_path, out):
    settings = settings_of(tmp_path, scenario="Offline", num_iterations="9")
    engine, samples = Overlapping(fail_at=5), []
    given = Input(RandomVolumes(1, SHAPE, 0), VolumesFacts(kind="random"), None)
    with pytest.raises(MemoryError, match="the engine failed"):
        performance.measure(asked_of(settings), settings, engine, given, 0.005, samples.append, out)
    assert len(samples) == 4


@needs_loadgen
def test_what_the_engine_raises_comes_out_and_ends_the_run(tmp_path, out):
    settings, samples = settings_of(tmp_path, scenario="SingleStream", num_iterations="20"), []
    engine, given = Thresholds(fail_at=3), Input(RandomVolumes(1, SHAPE, 0), VolumesFacts(kind="random"))
    with pytest.raises(MemoryError, match="the engine failed"):
        performance.measure(asked_of(settings), settings, engine, given, 0.005, samples.append, out)
    assert len(samples) == 2 and len(engine.batches) == 3


@needs_loadgen
@pytest.mark.parametrize("scenario", ["SingleStream", "Offline"])
def test_dice_of_the_log_scored_as_mlperf_does_is_ours(tmp_path, out, cases, scenario):
    settings = settings_of(tmp_path, scenario=scenario, **({"batch_size": "2"} if scenario == "Offline" else {}))
    predictions, theirs = loadgen_accuracy.predict(asked_of(settings, cases), settings, Thresholds(), cases, out)
    ours = accuracy.summarise(predictions.scores, cases.names, "random", out)
    default_loop = accuracy.predict(Thresholds(), cases, settings_of(tmp_path), SingleProcess())
    expected = accuracy.summarise(default_loop.scores, cases.names, "random", out)
    compared = loadgen_accuracy.compare(ours, theirs, out)
    from_log = compared.section["accuracy"]
    assert 0.1 < expected.of("WT") < 0.99, "a Dice that a wrong score could not hit by chance"
    for region in ("WT", "TC", "ET", "total"):
        assert ours.of(region) == pytest.approx(expected.of(region), abs=1e-12)
        assert from_log[region] == pytest.approx(expected.of(region), abs=1e-4)
    assert not compared.told.warnings
    assert {key: value for key, value, _ in compared.told.figures}["loadgen_accuracy_total"] == pytest.approx(
        100 * expected.of("total"), abs=1e-2
    )


class Answer(np.ndarray):
    """An array that a weak reference can follow."""


@needs_loadgen
def test_logged_arrays_live_until_loadgen_has_copied_them(tmp_path, monkeypatch):
    import mlperf_loadgen

    arrays, alive = [], []

    def answer(indices, output):
        made = [np.full(8, index, np.float16).view(Answer) for index in indices]
        arrays.extend(weakref.ref(array) for array in made)
        return made

    def complete(responses):
        alive.append(all(array() is not None for array in arrays[-len(responses) :]))
        finish(responses)

    finish = mlperf_loadgen.QuerySamplesComplete
    monkeypatch.setattr(mlperf_loadgen, "QuerySamplesComplete", complete)
    settings = mlperf_loadgen.TestSettings()
    settings.scenario, settings.mode = mlperf_loadgen.TestScenario.Offline, mlperf_loadgen.TestMode.AccuracyOnly
    harness = Harness(Thresholds(), lambda index: np.zeros((4, 2, 2, 2), np.float32), 2, 1, lambda *call: None, answer)
    harness.run(settings, 6, 6, tmp_path)
    assert alive == [True] * 3
    written = json.loads((tmp_path / logs.ACCURACY).read_text())
    assert {entry["qsl_idx"]: entry["data"] for entry in written} == {
        index: np.full(8, index, np.float16).tobytes().hex().upper() for index in range(6)
    }


@pytest.fixture(scope="module")
def log(tmp_path_factory, cases):
    """An accuracy log of all cases as LoadGen writes it."""
    folder = tmp_path_factory.mktemp("log")
    engine, rows = Thresholds(), []
    for number, name in enumerate(cases.names):
        logits = engine.logits(cases.store.load(name).array[None])[0].astype(np.float16)
        rows.append(json.dumps({"seq_id": number, "qsl_idx": number, "data": logits.tobytes().hex().upper()}))
    return folder, rows


def write(folder, rows, end="\n]\n"):
    (folder / logs.ACCURACY).write_text("[\n" + ",\n".join(rows) + end)


@pytest.mark.parametrize("harm", ["cut", "unclosed", "twice", "missing", "unknown", "short", "absent", "text"])
def test_logs_that_are_not_whole_give_no_dice(log, cases, harm, tmp_path):
    rows = list(log[1])
    if harm == "cut":
        write(tmp_path, [*rows[:-1], rows[-1][:1000]], "")
    elif harm == "unclosed":
        write(tmp_path, rows, "")
    elif harm == "twice":
        write(tmp_path, [rows[0], rows[0]])
    elif harm == "missing":
        write(tmp_path, rows[:1])
    elif harm == "unknown":
        write(tmp_path, [rows[0].replace('"qsl_idx": 0', '"qsl_idx": 99')])
    elif harm == "short":
        write(tmp_path, [json.dumps({"seq_id": 0, "qsl_idx": 0, "data": "00FF"})])
    elif harm == "text":
        (tmp_path / logs.ACCURACY).write_text("no log at all")
    with pytest.raises(UserError) as caught:
        logs.mlperf_dice(tmp_path, cases)
    assert "\n" not in str(caught.value) and logs.ACCURACY in str(caught.value)
    assert not list(tmp_path.glob(".scoring-*"))


def test_too_small_a_disk_is_told_before_the_run(tmp_path, out, cases, monkeypatch):
    monkeypatch.setattr(session.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"5 cases needs .* GiB, 0.0 GiB are free"):
        settings = settings_of(tmp_path, scenario="Offline")
        loadgen_accuracy.predict(asked_of(settings, cases), settings, Thresholds(), cases, out)


def test_streams_serve_every_set_of_samples(monkeypatch):
    """LoadGen's accuracy mode issues one set after the other, each of as many samples as fit into memory."""
    fake = SimpleNamespace(QuerySamplesComplete=lambda responses: None, QuerySampleResponse=lambda *parts: parts)
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", fake)
    engine, answered = SimpleNamespace(stage=lambda volumes: volumes, infer=lambda staged: staged), []
    served = Harness(
        engine, lambda index: np.zeros(1), 1, 2, lambda sample, indices: answered.append((indices[0], sample.stream))
    )
    served._held = {index: index for index in range(12)}
    for first in (0, 6):
        served._issue([SimpleNamespace(id=index, index=index) for index in range(first, first + 6)])
    assert served.error is None
    assert sorted(index for index, _ in answered) == list(range(12))
    assert {stream for _, stream in answered} <= {0, 1}
