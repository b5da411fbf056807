"""compare: what is a difference, what is noise, what must not be compared."""

import copy

import numpy as np
import pytest
from comparing import document
from made_gpu import HostGpu
from made_results import dice_of_cases, replaced
from scipy import stats

from unet3d import cli
from unet3d.commands import compare
from unet3d.commands.compare import measure, runs, samples
from unet3d.errors import UserError
from unet3d.measure import run
from unet3d.results import bootstrap


def noisy(seed, mean, count=20, spread=0.01):
    return mean * (1 + spread * np.random.default_rng(seed).standard_normal(count))


def test_one_run_against_itself_is_no_difference(save, capsys):
    path = save("a", document(noisy(0, 100)))
    assert compare.main([path, path]) == 0
    assert capsys.readouterr().out.count("no difference beyond noise") == 5


def test_a_true_difference_is_found_with_its_size():
    base, other = (runs.Side(name, [document(noisy(seed, mean))]) for name, seed, mean in (("a", 0, 100), ("b", 1, 80)))
    ratios = measure.ratios(base, other)
    assert ratios["throughput"].beyond_noise
    assert ratios["throughput"].low < 1.25 < ratios["throughput"].high
    assert ratios["mean"].low < 0.8 < ratios["mean"].high
    assert ratios["throughput"].value == pytest.approx(1 / ratios["mean"].value)
    assert measure.verdict(ratios["throughput"], True).startswith("better")
    assert measure.verdict(ratios["mean"], False).startswith("better")


@pytest.mark.parametrize(("correlation", "count", "most"), [(0.0, 10, 0.05), (0.0, 30, 0.05), (0.5, 20, 0.07), (0.8, 50, 0.10)])
def test_noise_is_rarely_called_a_difference(correlation, count, most):
    """Two sides of the same distribution, calls resembling their neighbours: the rate of false alarms stays low."""
    rng = np.random.default_rng(7)

    def series():
        steps, values = rng.standard_normal(count + 50), np.zeros(count + 50)
        for i in range(1, len(values)):
            values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * steps[i]
        return 100 + 3 * values[50:]

    alarms, trials = 0, 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "DRAWS", 400)
        for trial in range(trials):
            patch.setattr(measure, "SEED", trial)
            base, other = (runs.Side(name, [document(series())]) for name in ("a", "b"))
            alarms += measure.ratios(base, other)["mean"].beyond_noise
    assert alarms / trials <= most


def test_interval_is_that_of_the_t_test_where_that_holds():
    """Independent normal samples, small spread: the log ratio's interval is Welch's of the means, to bootstrap error."""
    rng = np.random.default_rng(3)
    base, other = (1 + 0.02 * rng.standard_normal(60) for _ in range(2))
    drawn = [side[rng.integers(0, 60, (20000, 60))].mean(axis=1) for side in (base, other)]
    sure = bootstrap.ratio_of_sides(other.mean() / base.mean(), *drawn, 60)
    expected = stats.ttest_ind(other, base, equal_var=False).confidence_interval(bootstrap.CONFIDENCE)
    assert sure.high - sure.low == pytest.approx(expected.high - expected.low, rel=0.05)


def test_runs_that_differ_from_one_another_hide_a_difference_that_one_pair_shows(save):
    firsts = [document(noisy(seed, mean, spread=0.002)) for seed, mean in ((0, 100), (1, 108), (2, 96))]
    seconds = [document(noisy(seed, mean, spread=0.002)) for seed, mean in ((3, 103), (4, 97), (5, 107))]
    assert measure.ratios(runs.Side("a", firsts[:1]), runs.Side("b", seconds[:1]))["throughput"].beyond_noise
    assert not measure.ratios(runs.Side("a", firsts), runs.Side("b", seconds))["throughput"].beyond_noise
    path = ",".join(save(f"r{index}", doc) for index, doc in enumerate(firsts))
    assert len(runs.read(path).docs) == 3


@pytest.mark.parametrize(("streams", "ranks"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_bootstrapped_throughput_is_that_of_the_results(streams, ranks):
    doc = document(noisy(2, 100, count=24, spread=0.1), streams, ranks)
    parts = samples.parts(doc, overhead=False)
    slowest = max(seconds.sum() / volumes.sum() for volumes, seconds in parts)
    assert ranks / slowest == pytest.approx(doc["statistics"]["throughput"])
    assert runs.Side("a", [doc]).value("throughput") == pytest.approx(doc["statistics"]["throughput"])


@pytest.mark.parametrize(("mean", "code"), [(100, 0), (103, 0), (112, 1), (80, 0)])
def test_exit_code_for_ci(save, capsys, mean, code):
    base, other = save("base", document(noisy(0, 100))), save("other", document(noisy(1, mean)))
    assert cli.main(["compare", base, other, "--fail-if-slower", "5%"]) == code
    assert ("FAIL" in capsys.readouterr().out) == bool(code)


def test_noise_does_not_fail_ci_but_is_named(save, capsys):
    base, other = save("base", document(noisy(5, 100, 10, 0.3))), save("other", document(noisy(6, 112, 10, 0.3)))
    assert measure.ratios(runs.read(base), runs.read(other))["throughput"].value < 0.95
    assert cli.main(["compare", base, other, "--fail-if-slower=5%"]) == 0
    assert "too noisy to tell" in capsys.readouterr().out


def test_gate_needs_samples(save):
    base, other = save("base", document([100] * 4)), save("other", document([200] * 4))
    with pytest.raises(UserError, match="at least 5 calls"):
        compare.main([base, other, "--fail-if-slower", "5"])
    assert "cannot be told" in measure.verdict(measure.ratios(runs.read(base), runs.read(other))["mean"], False)


@pytest.mark.parametrize(
    "change",
    [
        {"complete": False, "incomplete_reason": "stopped by SIGTERM"},
        {"volume": {"shape": [4, 64, 64, 64], "standard": False, "tflop": 3.7}},
        {"weights": {"kind": "mlperf", "sha256": "0" * 64, "path": None, "base_features": 32, "parameters": 1}},
        {"mode": "accuracy", "accuracy": dice_of_cases({"a": {"WT": 0.9, "TC": 0.8, "ET": 0.7}})},
        {"scenario": "SingleStream"},
        {"data": {"kind": "BraTS 2019"}},
    ],
)
def test_other_workloads_are_refused_unless_asked_for(save, capsys, change):
    base, other = save("base", document(noisy(0, 100))), save("other", document(noisy(1, 100), **change))
    assert cli.main(["compare", base, other]) == 2
    errors = capsys.readouterr().err
    assert "must not be compared" in errors
    assert len(errors.splitlines()) == 1
    assert cli.main(["compare", base, other, "--anyway", "--markdown"]) == 0
    assert "**NOT COMPARABLE: " in capsys.readouterr().out


def test_another_batch_size_is_another_workload(save):
    doc = document(noisy(1, 100))
    changed = replaced(doc, ("settings", "requested", "batch_size"), 2)
    with pytest.raises(UserError, match="batch size: 1 and 2"):
        compare.main([save("one", doc), save("two", changed)])


def test_every_difference_is_named_and_nothing_else():
    doc = document(noisy(0, 100))
    other = copy.deepcopy(doc)
    other["settings"]["requested"] |= {"precision": "fp32", "output_dir": "/elsewhere"}
    other["environment"]["versions"]["torch"] = "2.14.0"
    other["environment"]["hardware"]["cpu"] = "B"
    other["environment"]["variables"] = {"OMP_PLACES": "cores"}
    other["benchmark"]["git_commit"] = "def"
    differing = runs.differing([runs.Side("a", [doc]), runs.Side("b", [other])])
    assert dict(differing) == {
        "settings.precision": ["bf16", "fp32"],
        "software.torch": ["2.13.0", "2.14.0"],
        "machine.cpu": ["A", "B"],
        "variables.OMP_PLACES": ["-", "cores"],
        "benchmark.git_commit": ["abc", "def"],
    }


def test_another_driver_of_the_gpu_is_told(save, capsys, monkeypatch):
    paths = []
    for driver in ("570.86", "580.12"):
        monkeypatch.setattr(HostGpu, "driver_version", driver)
        doc = document(noisy(0, 100))
        doc["environment"]["hardware"] = run.machine(HostGpu(), doc["environment"]["hardware"])
        paths.append(save(driver, doc))
    assert compare.main(paths) == 0
    told = capsys.readouterr().out
    assert "machine.driver: 570.86 | 580.12" in told and "are the same" not in told
    assert compare.main(["--history", *paths]) == 0
    assert "differs: machine.driver 580.12" in capsys.readouterr().out


def test_dice_is_compared_case_by_case():
    def side(name, shift):
        scores = {f"c{i}": {"WT": 0.3 + 0.06 * i + shift, "TC": 0.5, "ET": None if i == 0 else 0.4} for i in range(10)}
        return runs.Side(name, [document(noisy(0, 100), accuracy=dice_of_cases(scores))])

    differences = measure.dice(side("a", 0.0), side("b", 0.01))
    assert differences["WT"] == pytest.approx((0.01, 0.01, 0.01))  # far below the cases' spread, yet certain
    assert differences["TC"] == (0, 0, 0)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "samples": {}}', "\xff"])
def test_broken_files_are_one_line(save, tmp_path, capsys, text):
    good = save("good", document(noisy(0, 100)))
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    assert cli.main(["compare", good, str(tmp_path / "bad.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["only-one"],
        ["a", "b", "--fail-if-slower", "fast"],
        ["a", "b", "--fail-if-slower", "nan"],
        ["a", "b", "--no-such-option"],
    ],
)
def test_bad_command_lines_are_one_line(words, capsys):
    assert cli.main(["compare", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_markdown_is_a_table(save, capsys):
    base, other, third = (
        save(name, document(noisy(seed, mean))) for name, seed, mean in (("a", 0, 100), ("b", 1, 90), ("c", 2, 110))
    )
    assert compare.main([base, other, "--markdown"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("|")]
    assert "| --- | --- | --- | --- | --- | --- |" in rows
    assert "### b against a" in out
    assert all(line.endswith("|") for line in rows)
    assert compare.main([base, other, third, "--markdown", "--against", base]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[1] for line in rows[2:]] == ["b", "a", "c"]
