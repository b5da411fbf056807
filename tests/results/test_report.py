"""The report: everything on one page without network, of whole, incomplete and hostile results."""

import copy
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import fastjsonschema
import pytest
from made_results import closed

from unet3d import cli
from unet3d.brats import regions
from unet3d.commands import report as report_verb
from unet3d.errors import UserError
from unet3d.results import json_schema, report

ROOT = Path(__file__).parents[2]
HOSTILE = "<script>alert(1)</script>&'\""


class Page(HTMLParser):
    """What a browser would load or run, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.identifiers, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(value)
            if name == "id":
                self.identifiers.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with the results of a real run."""
    folder = tmp_path_factory.mktemp("run")
    ended = subprocess.run(
        [sys.executable, ROOT / "predict.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={
            **os.environ,
            "PLATFORM": "CPU",
            "VOLUME_SHAPE": "64,32,32",
            "WEIGHTS": "sample",
            "NUM_ITERATIONS": "6",
            "JIT": "none",
            "WARM_UP": "1",
            "OUTPUT_DIR": str(folder),
            "BATCHSIZE": "2",
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert str(folder / "report.html") in ended.stdout
    assert "did you mean BATCH_SIZE?" in ended.stdout.split("PERF_STATUS")[0], "at the beginning, where settings are told"
    fastjsonschema.compile(closed(json_schema.document()))(json.loads((folder / "results.json").read_text()))
    return folder


@pytest.fixture
def doc(run):
    return json.loads((run / "results.json").read_text())


def page(doc, folder):
    html = report.page(doc, folder)
    return html, Page(html)


def with_accuracy(doc):
    """Dice of three cases, of which one has no enhancing tumour."""
    cases = {
        "HGG__a": {"WT": 0.9, "TC": 0.8, "ET": 0.7},
        "HGG__b": {"WT": 0.95, "TC": 0.9, "ET": None},
        "LGG__c": {"WT": 0.5, "TC": 0.4, "ET": 0.1},
    }
    summary = regions.summarise(list(cases.values()))
    return {
        **doc,
        "mode": "accuracy",
        "accuracy": {
            **summary.means,
            "total": summary.total,
            "undefined": summary.undefined,
            "cases": cases,
            "weights": "sample",
        },
    }


def test_a_run_ends_with_its_report(run, doc):
    html = (run / "report.html").read_text()
    text = Page(html).text
    for sample in (
        "Latency distribution",
        "Latency over the run",
        doc["environment"]["hardware"]["cpu"],
        "VOLUME_SHAPE",
        doc["environment"]["versions"]["torch"],
    ):
        assert sample in text
    assert "misspelt-variable" in {warning["name"] for warning in doc["warnings"]}
    for warning in doc["warnings"]:
        assert warning["message"] in text
        assert warning["remedy"] in text
    assert f"{doc['statistics']['throughput']:.4g}" in text


def test_page_loads_nothing_and_runs_nothing(run, doc):
    html, parsed = page(with_accuracy(doc), run)
    assert not {"script", "link", "iframe", "object", "embed"} & set(parsed.tags)
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert len(parsed.identifiers) == len(set(parsed.identifiers))
    for link in parsed.links:
        assert not link.startswith("#") or link[1:] in parsed.identifiers


def test_colours_follow_the_scheme(run, doc):
    html, _ = page(with_accuracy(doc), run)
    assert "var(--accent)" in html
    assert "#0a0b" not in html
    for variable in report.content.VARIABLES:
        assert html.count(f"--{variable}:") >= 2  # light and dark


def test_text_from_outside_stays_text(run, doc):
    doc["warnings"] = [{"name": HOSTILE, "message": HOSTILE, "remedy": HOSTILE}]
    doc["environment"]["hardware"]["cpu"] = HOSTILE
    doc["environment"]["variables"] = {"LD_PRELOAD": HOSTILE}
    doc["profile"] = [{"name": HOSTILE[:30], "ms": 1.0}]
    _, parsed = page(doc, run)
    assert "script" not in parsed.tags
    assert parsed.text.count("<script>") >= 5


def test_profile_and_ceilings_are_drawn_when_they_are_there(run, doc):
    _, without = page(doc, run)
    assert "Time by layer" not in without.text
    assert "ceiling" not in without.text
    doc["profile"] = [
        {
            "name": "aten::conv3d",
            "shapes": [[1, 32, 8, 8, 8]],
            "ms": 10.0 * (i + 1),
            "share_of_matmul": 0.42,
            "share_of_copy": None,
        }
        for i in range(30)
    ]
    doc["ceilings"] = {"matmul_tflops": 4 * doc["statistics"]["tflops"], "matmul_how": "matrix product", "precision": "bf16"}
    _, parsed = page(doc, run)
    assert f"{30 / 465:.1%}" in parsed.text  # the longest layer's share of 1 + 2 + … + 30
    assert "15 others" in parsed.text
    assert parsed.text.count("conv3d 32×8×8×8") == 15
    assert parsed.text.count("42% of arithmetic") == 15
    assert "(25%)" in parsed.text


def test_profiled_kernels_are_drawn_with_their_layers(run, doc):
    row = {"name": "unet3d::conv_first", "shapes": [[1, 4, 8, 8, 8]], "ms": 2.0}
    kernel = "void cutlass::Kernel2<" + 20 * "cutlass_80_tensorop_" + ">(Params)"
    doc["profile"] = [
        {**row, "layer": "encoder.0.0", "kernel": "_first_kernel"},
        {**row, "layer": "decoder.4.1", "kernel": kernel},
        {"name": "gaps between kernels", "shapes": [], "ms": 1.0, "layer": None, "kernel": None},
    ]
    _, parsed = page(doc, run)
    assert "encoder.0.0 _first_kernel" in parsed.text
    assert "decoder.4.1 cutlass::Kernel2<" in parsed.text
    assert "gaps between kernels" in parsed.text and f"{1 / 5:.1%}" in parsed.text


def test_shares_of_the_hardware_count_what_was_executed(run, doc):
    rate = doc["statistics"]["throughput"]
    doc["volume"]["tflop"] = 3.7
    doc["ceilings"] = {
        "device": "cpu",
        "precision": "bf16",
        "threads": 4,
        "copy_gbs": 20.0,
        "matmul_tflops": 1.5 * rate,
        "matmul_how": "matrix product",
        "hardware": [{"products": "fp32", "tflops": 2 * rate, "how": "AVX-512 FMA in registers"}],
        "executed_tflop": {"fp32": 0.5},
    }
    _, parsed = page(doc, run)
    text = " ".join(parsed.text.split())
    assert "(25%)" in text and "hardware ceiling" in text and "(AVX-512 FMA in registers)" in text
    assert "A volume took 0.5 TFLOP of products (0.5 in fp32), which the share counts." in text
    assert "nominal: of 3.7 TFLOP per volume" in text
    assert "Library ceiling of bf16" in text and "Above 100%" not in text
    doc["ceilings"]["hardware"][0]["tflops"] = 0.4 * rate
    _, parsed = page(doc, run)
    assert "Above 100%: other work slowed the ceiling's measurement after the run." in " ".join(parsed.text.split())


def test_a_gpus_layers_are_told_by_the_librarys_products(run, doc):
    row = {"name": "conv", "shapes": [], "ms": 2.0, "share_of_matmul": 0.42, "share_of_copy": None, "executed_flop": 1e9}
    doc["profile"] = [{**row, "ceiling": "library"}, {**row, "ceiling": "hardware"}]
    _, parsed = page(doc, run)
    assert "42% of a library's products" in parsed.text and "42% of the hardware's products" in parsed.text


def test_dice_of_regions_and_cases(run, doc):
    _, parsed = page(with_accuracy(doc), run)
    assert "mean 0.4000" in parsed.text  # (0.7 + 0.1) / 2, the undefined case left out
    assert "undefined in 1 of 3 cases" in parsed.text
    assert "HGG__b" in parsed.text


def test_incomplete_results_say_so(run, doc):
    empty = copy.deepcopy(doc)
    empty |= {
        "complete": False,
        "incomplete_reason": "stopped by SIGINT",
        "statistics": None,
        "accuracy": None,
        "effective": {},
        "weights": {},
        "data": {},
        "check": None,
        "load_seconds": {},
        "warm_up": {},
        "memory": {},
    }
    empty["samples"] = {name: [] for name in doc["samples"]}
    _, parsed = page(empty, run)
    assert "INCOMPLETE: stopped by SIGINT" in parsed.text


def test_a_failed_drawing_costs_a_warning_only(run, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no ink")

    written = []
    monkeypatch.setattr(report, "write", fail)
    monkeypatch.setattr(
        "unet3d.results.document.write", lambda record, folder: written.append(list(record.warnings)) or {"new": True}
    )
    from unet3d.commands import run as run_verb
    from unet3d.results.record import Record

    record = Record(SimpleNamespace())
    assert run_verb._report(record, {}, tmp_path) == {"new": True}
    assert [warning.name for warning in written[0]] == ["no-report"]
    assert "no ink" in written[0][0].message


def test_verb_draws_anew_and_refuses_what_is_no_result(run, tmp_path, capsys):
    (run / "report.html").unlink()
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    (tmp_path / "results.json").write_text("{")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="results.json of a run"):
            report_verb.main([str(path)])
    assert cli.main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def drawn_bars(doc, calls):
    doc["samples"] = {name: (values * calls)[:calls] for name, values in doc["samples"].items()}
    return report.content.charts.latency_distribution(doc["samples"]["latency_ms"], doc["statistics"])


def test_few_calls_are_dots_and_many_have_bars(doc):
    assert "Histogram" not in drawn_bars(copy.deepcopy(doc), 19)
    assert "Histogram" in drawn_bars(copy.deepcopy(doc), 20)


def test_a_drift_of_one_percent_is_seen():
    stats = {"mean": 100.5, "min": 100.0, "max": 101.0}
    low, high = report.content.charts.drift_limits(stats)
    assert low < 100 and high > 101
    assert 1 / (high - low) > 0.2  # of the axis' height


def test_layers_names_are_whole(run, doc):
    name = "aten::mkldnn_rnn_layer_with_a_rather_long_name"
    doc["profile"] = [{"name": name, "shapes": [[1, 32, 224, 224]], "ms": 1.0}]
    _, parsed = page(doc, run)
    assert name.removeprefix("aten::") in parsed.text


def test_loadgens_figures_and_verdict_stand_in_the_report(run, doc):
    doc["loadgen"] = {
        "version": "6.0",
        "rules": "MLPerf Inference v1.1",
        "settings": {"min_queries": 64},
        "valid_for_submission": False,
        "why_not": ["the weights are random"],
        "performance": {
            "scenario": "SingleStream",
            "verdict": "INVALID",
            "queries": 64,
            "latency_ms": {"mean": 10.0, "p90": 12.5},
            "own_latency_ms": {"mean": 10.1, "p90": 12.5},
            "difference": {"mean": 0.01, "p90": 0.0},
            "samples_per_second": None,
            "early_stopping": None,
            "problems": ["a problem of its own"],
        },
    }
    _, parsed = page(doc, run)
    for text in ("INVALID", "the weights are random", "12.5 ms", "our clock 10.1 ms, +1.00%", "min_queries 64", "a problem of"):
        assert text in parsed.text
    assert "early stopping" not in parsed.text


def test_ranks_are_a_table(run, doc):
    doc["ranks"] = [
        {"rank": number, "node": 0, "host": "h", "place": {"name": f"cores {number}"}, "device": "cpu", "calls": 3}
        | {"throughput": 2.5, "latency_mean_ms": 400.0, "latency_p90_ms": 410.0, "peak_host_bytes": 2**30}
        for number in range(2)
    ]
    doc["pool"] = {"slowest_rank": 1, "slowest_behind": 0.25, "all_at_work": 0.9, "window_s": 4.0}
    _, parsed = page(doc, run)
    assert "cores 1" in parsed.text and "25.0% longer" in parsed.text
    assert parsed.tags.count("th") > 9


def test_settings_and_software_are_folded(run, doc):
    html, parsed = page(doc, run)
    for summary in ("Settings: ", "Software and variables"):
        assert f"<summary>{summary}" in html
    assert parsed.text.count("VOLUME_SHAPE") >= 1


def test_text_of_figures_is_readable_on_a_phone(run, doc):
    """At 420 pixels a figure is 360 wide; what is written in it is then 10 pixels high at least."""
    import re

    html, _ = page(doc, run)
    widths = [float(width) for width in re.findall(r'viewBox="0 0 ([\d.]+) ', html)]
    heights = [float(size) for size in re.findall(r"font: (?:[\d.]+ )?([\d.]+)px", html)]
    assert widths and heights
    assert min(heights) * 360 / max(widths) >= 10
