"""MLPerf's checks: an honest engine passes, one that keeps results, answers stale or wrong, or likes one seed does not."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import making
import numpy as np
import pytest
from made_engine import Thresholds

from unet3d.brats import dataset, preprocessing, sample_data
from unet3d.brats.volumes import CaseVolumes, RandomVolumes
from unet3d.config import parse
from unet3d.config.values import Asked
from unet3d.errors import MismatchError
from unet3d.measure import accuracy, compliance, loop
from unet3d.measure.compliance import Kept
from unet3d.measure.prepare import Input
from unet3d.planning.group import SingleProcess
from unet3d.planning.refusals import impossible
from unet3d.results import json_schema, schema
from unet3d.results.console import Console
from unet3d.results.facts import VolumesFacts

SHAPE = (64, 32, 32)
PAUSE = 0.02


class Honest(Thresholds):
    """Pauses as long in every call."""

    def __init__(self):
        super().__init__(PAUSE)


class Caching(Honest):
    """Answers a volume that it has seen at once."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def infer(self, staged):
        key = hash(staged.tobytes())
        if key not in self.seen:
            self.seen[key] = super().infer(staged)
        return self.seen[key]


class Stale(Honest):
    """Answers every volume with the first one's output, in the same time."""

    first = None

    def infer(self, staged):
        self.first = staged if self.first is None else self.first
        time.sleep(PAUSE)
        return self.first


class Hasty(Honest):
    """Answers some of the timed calls by noise."""

    calls = 0

    def infer(self, staged):
        self.calls += 1
        time.sleep(PAUSE)
        return np.random.default_rng(self.calls).permuted(staged, axis=-1) if self.calls < 8 else staged


class KnowsItsSeed(Honest):
    """Is three times as fast with the volume that the run has."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def infer(self, staged):
        time.sleep(PAUSE if np.array_equal(np.sort(staged, axis=None), self.known) else 3 * PAUSE)
        return staged


def checked(engine, capsys, volumes=None, cases=None, dice=None, **changes):
    """The checks' section after a run of 8 calls, and what was printed."""
    plan = making.plan_of(volume_shape="64,32,32", precision="fp32", num_iterations=8, compliance="yes", **changes)
    settings, samples = plan.settings, []
    volumes = volumes or RandomVolumes(1, SHAPE, settings.seed)
    kept = Kept(settings.num_iterations, settings.seed)
    loop.measure(plan, engine, volumes, SingleProcess(), samples.append, kept.look)
    given = Input(volumes, VolumesFacts(kind="random"), cases)
    section = compliance.check(settings, engine, given, kept, samples, dice, Console())
    return section, [line for line in capsys.readouterr().out.splitlines() if " TEST0" in line]


def verdicts(section):
    return {test["name"]: test["passed"] for test in section["tests"]}


@pytest.mark.parametrize("streams", [1, 2])
def test_an_honest_engine_passes(capsys, streams):
    section, lines = checked(Honest(), capsys, streams=streams)
    assert section["passed"] and verdicts(section) == {"TEST01": True, "TEST04": True, "TEST05": True}
    assert [line.split("compliance ")[1].split(":")[0] for line in lines] == ["TEST01 PASSED", "TEST04 PASSED", "TEST05 PASSED"]
    assert "labels of 4 timed calls agree with an accuracy run's in 100.000% of voxels" in lines[0]
    figures = section["tests"][1]["figures"]
    assert figures["different_volumes"] == figures["different_outputs"] == 9 * streams
    assert f"{figures['same_ms']:.2f} ms" in lines[1] and f"{figures['ratio']:.3f} times as long" in lines[1]
    compliance.must_pass(section)
    assert set(schema.Compliance.__annotations__) == set(section)
    assert set(schema.ComplianceTest.__annotations__) == set(section["tests"][0])


@pytest.mark.parametrize(
    ("engine", "fails", "told"),
    [
        (Caching(), "TEST04", "times as long"),
        (Stale(), "TEST04", "1 of 9 outputs differ"),
        (Hasty(), "TEST01", "(at least 99.9%)"),
        (KnowsItsSeed(np.sort(RandomVolumes(1, SHAPE, 0).batch(0), axis=None)), "TEST05", "other seeds take"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Honest) else "",
)
def test_an_engine_that_cheats_fails(capsys, engine, fails, told):
    section, lines = checked(engine, capsys)
    assert not section["passed"] and not verdicts(section)[fails]
    line = next(line for line in lines if fails in line)
    assert f"{fails} FAILED: " in line and told in line
    with pytest.raises(MismatchError, match=f"^compliance: .*{fails} FAILED: .*do not count"):
        compliance.must_pass(section)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sample_data.make(folder, cases=3, size=(28, 28, 28), processes=1)
    store = preprocessing.Store(folder / "store", SHAPE)
    preprocessing.preprocess(folder, store.folder, processes=1, padded_shape=SHAPE)
    by_name = {case.name: case for case in dataset.find_cases(folder)}
    return accuracy.Cases(sorted(by_name), by_name, store)


def test_dice_of_timed_calls_is_that_of_the_accuracy_run(capsys, cases):
    engine, settings = Honest(), making.settings_of(volume_shape="64,32,32", precision="fp32")
    predictions = accuracy.predict(engine, cases, settings, SingleProcess())
    dice = accuracy.summarise(predictions.scores, cases.names, "random", Console())
    volumes = CaseVolumes(cases.store, cases.names, 1)
    section, lines = checked(engine, capsys, volumes, cases, dice)
    assert section["tests"][0]["passed"] and section["tests"][0]["figures"]["dice_difference"] == 0
    assert "their Dice differs by 0 (at most 0.001)" in lines[0] and "other orders of the cases" in lines[2]
    worse = {name: {**scores, "WT": scores["WT"] - 0.01} for name, scores in dice.cases.items()}
    section, lines = checked(engine, capsys, volumes, cases, replace(dice, cases=worse))
    assert not section["tests"][0]["passed"] and "Dice differs by 0.01" in lines[0]


def test_outputs_are_kept_of_calls_chosen_before():
    kept, asked = Kept(100, 3), []
    for index in range(100):
        kept.look(lambda: None, (str(index),), lambda index=index: asked.append(index) or np.zeros(1))
    assert len(asked) == compliance.KEPT and [int(names[0]) for _, names, _ in kept.batches] == asked
    assert asked != list(range(compliance.KEPT))  # not only the first, which a warm-up could resemble
    few = Kept(2, 3)
    for _ in range(5):
        few.look(lambda: None, (), lambda: np.zeros(1))
    assert len(few.batches) == 2


@pytest.mark.parametrize(
    ("interval", "passes", "is_open"),
    [
        ((0.99, 1.01), True, False),
        ((0.95, 1.3), True, True),
        ((0.5, 0.95), True, True),
        ((1.2, 1.4), False, False),
        ((0.7, 0.8), False, False),
    ],
)
def test_what_noise_hides_is_said(interval, passes, is_open):
    assert compliance._agree(1.0, *interval) is passes
    assert ("noise leaves open" in compliance._told(1.0, *interval)) is is_open


def test_volumes_are_never_the_same():
    moved, first = compliance._moved(np.arange(2 * 3 * 4).reshape(1, 1, 2, 3, 4)), None
    for _ in range(11):
        volume = next(moved)
        assert first is None or not np.array_equal(volume, first)
        first = volume


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"INSTANCES": "2"}, "INSTANCES with COMPLIANCE=yes is not possible"),
        ({"DEVICES": "2", "SCALING": "1,2"}, "DEVICES, SCALING with COMPLIANCE=yes is not possible"),
    ],
)
def test_several_processes_are_refused(variables, told):
    given, problems = parse.parse([], {"COMPLIANCE": "yes", **variables})
    problems += impossible(Asked.of(given))
    assert [problem for problem in problems if told in problem and "use COMPLIANCE=no" in problem]


def run(tmp_path, code, **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    settings = {
        "PLATFORM": "CPU",
        "PRECISION": "fp32",
        "VOLUME_SHAPE": "64,32,32",
        "TELEMETRY": "no",
        "WEIGHTS": "sample",
        "NUM_ITERATIONS": "4",
        "WARM_UP": "1",
        "OUTPUT_DIR": str(tmp_path / "out"),
        "COMPLIANCE": "yes",
    }
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | settings | variables,
        capture_output=True,
        text=True,
        cwd=making.ROOT,
        timeout=500,
    )
    return ended, json.loads((tmp_path / "out" / "results.json").read_text())


MAIN = "import sys; from unet3d import cli; sys.exit(cli.main([]))"
# An engine that keeps its outputs by the volumes, and takes its time for those that it has not seen.
CACHE = """
import time
from unet3d.engines.pytorch.engine import TorchEngine
infer, seen = TorchEngine.infer, {}
def cached(self, staged):
    key = hash(staged.numpy().tobytes())
    if key not in seen:
        time.sleep(0.2)
        seen[key] = infer(self, staged)
    return seen[key]
TorchEngine.infer = cached
"""


@pytest.mark.parametrize("scenario", ["Default", "SingleStream"])
def test_a_run_tells_its_checks(tmp_path, scenario):
    if scenario != "Default":
        pytest.importorskip("mlperf_loadgen")
    # Other tests beside this one must not decide: the speeds' limits have tests of their own.
    ended, results = run(tmp_path, f"from unet3d.measure import compliance; compliance.SPEED = 0.9\n{MAIN}", SCENARIO=scenario)
    assert ended.returncode == 0, ended.stderr
    tests = results["compliance"]["tests"]
    assert [test["name"] for test in tests] == ["TEST01", "TEST04", "TEST05"]
    assert results["compliance"]["passed"] and results["complete"]
    for test in tests:
        assert f"compliance {test['name']} PASSED: {test['found']}" in ended.stdout
    assert results["settings"]["requested"]["compliance"] is True
    assert (tests[0]["figures"]["calls"], tests[0]["figures"]["label_agreement"]) == (4, 1)
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Compliance" in html and "PASSED: labels of 4 timed calls" in html
    assert json_schema.document()["definitions"]["Compliance"]


def test_a_run_that_keeps_results_has_no_number(tmp_path):
    ended, results = run(tmp_path, CACHE + MAIN)
    assert ended.returncode == 3
    [error] = ended.stderr.splitlines()
    assert error.startswith("ERROR: compliance: TEST04 FAILED: the same volume takes")
    assert not results["complete"] and results["incomplete_reason"].startswith("compliance: TEST04 FAILED")
    assert not results["compliance"]["passed"]
    assert "compliance TEST01 PASSED" in ended.stdout and "compliance TEST05" in ended.stdout
