"""compare of many results: order, folders, formats, what is said of each against another one."""

import base64
import csv
import io
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from comparing import document
from made_results import full

from unet3d import cli

SMALL = Path(__file__).with_name("small_run.json")  # a real run on volumes of 64x32x32, two streams, seven calls
HOSTILE = "=HYPERLINK(1)|<script>alert(1)</script>\x1b[31m`*x*\n& \"q' $\\alpha$ </text>"


def noisy(seed, mean, count=20, spread=0.01):
    return mean * (1 + spread * np.random.default_rng(seed).standard_normal(count))


def doc(seed, mean, **changes):
    return document(noisy(seed, mean), **changes)


def benchmark_at(commit):
    return {**doc(0, 100)["benchmark"], "git_commit": commit}


def printed(capsys, *words, code=0):
    assert cli.main(["compare", *map(str, words)]) == code
    return capsys.readouterr().out


def rows_of(capsys, *words, code=0):
    return {row["result"]: row for row in json.loads(printed(capsys, *words, "--format", "json", code=code))["rows"]}


@pytest.fixture
def three(save, tmp_path):
    for name, seed, mean in (("slow", 0, 200), ("fast", 1, 100), ("middle", 2, 150)):
        save(f"runs/{name}", doc(seed, mean, benchmark=benchmark_at(f"commit {name}")))
    return tmp_path / "runs"


def test_a_folder_stands_for_all_results_below_it(three, save, capsys):
    save("runs/deeper/still", doc(3, 50))
    (three / "sweep.json").write_text('{"rows": []}')
    rows = rows_of(capsys, three)
    assert list(rows) == ["deeper/still", "fast", "middle", "slow"]
    assert [row["place"] for row in rows.values()] == [1, 2, 3, 4]
    assert rows["fast"]["throughput"] == pytest.approx(10, rel=0.01)
    assert list(rows_of(capsys, *(three / name for name in ("slow", "fast", "middle")))) == ["fast", "middle", "slow"]


def test_a_damaged_result_in_a_folder_is_left_out_and_named(three, capsys):
    (three / "slow" / "results.json").write_text("{")
    out = printed(capsys, three)
    assert "2 of 2 results" in out
    assert "left out: " in out.replace("\n", " ")
    assert cli.main(["compare", str(three / "slow"), str(three / "fast"), str(three / "middle")]) == 2


@pytest.mark.parametrize("latency", ["Infinity", "NaN", "-1", '"fast"', "null", "[1]"])
def test_damaged_samples_are_one_line(three, latency, capsys):
    path = three / "slow" / "results.json"
    text = path.read_text()
    path.write_text(re.sub(r'("latency_ms": \[)[\d.]+', rf"\g<1>{latency}", text))
    assert cli.main(["compare", str(three / "slow"), str(three / "fast")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("odd", [None, "x", []])
@pytest.mark.parametrize(
    "keys", ["effective", "memory", "benchmark", "environment", "environment.hardware", "environment.versions"]
)
def test_sections_of_another_type_are_one_line(three, keys, odd, capsys):
    path = three / "slow" / "results.json"
    damaged = json.loads(path.read_text())
    *outer, last = keys.split(".")
    place = damaged[outer[0]] if outer else damaged
    place[last] = odd
    path.write_text(json.dumps(damaged))
    assert cli.main(["compare", str(three / "slow"), str(three / "fast")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_workloads_and_incomplete_runs_have_no_place(three, save, capsys):
    save("runs/small", doc(3, 10, volume={"shape": [4, 64, 64, 64], "standard": False, "tflop": 3.7}))
    save("runs/stopped", doc(4, 20, complete=False, incomplete_reason="stopped by SIGTERM"))
    rows = rows_of(capsys, three)
    assert [rows[name]["place"] for name in ("fast", "middle", "slow", "small", "stopped")] == [1, 2, 3, None, None]
    assert "volume" in rows["small"]["not_comparable"]
    assert "SIGTERM" in rows["stopped"]["not_comparable"]
    assert rows_of(capsys, three, "--anyway")["small"]["place"] == 1
    assert cli.main(["compare", str(three), "--fail-if-slower", "5"]) == 2
    assert "must not be compared" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["slow", "slow/results.json"])
def test_against_one_of_them(three, named, capsys):
    rows = rows_of(capsys, three, "--against", three / named)
    assert len(rows) == 3
    assert rows["slow"]["ratio"] is None
    for name, truth in (("fast", 2), ("middle", 4 / 3)):
        assert rows[name]["ratio_low"] < truth < rows[name]["ratio_high"]
        assert rows[name]["ratio_high"] / rows[name]["ratio_low"] < 1.1
        assert rows[name]["against"] == "slow"
        assert rows[name]["ratios"]["p90"]["beyond_noise"]


def test_against_another_one_joins_it(three, save, capsys):
    rows = rows_of(capsys, three, "--against", save("elsewhere", doc(7, 100)))
    assert len(rows) == 4
    [other] = [row for name, row in rows.items() if name.endswith("fast")]
    assert not other["beyond_noise"]


@pytest.mark.parametrize(("dirty", "told"), [(False, ""), (True, " (changed)"), (None, " (changes unknown)")])
def test_a_commit_is_told_with_whether_files_differed(three, save, dirty, told, capsys):
    save("runs/last", doc(0, 100, benchmark={**benchmark_at("0123456789"), "git_dirty": dirty}))
    assert f", 01234567{told} |" in printed(capsys, three, "--format", "markdown")
    assert f">01234567{told}<" in printed(capsys, three, "--format", "html")


def test_two_results_against_the_second(three, capsys):
    out = printed(capsys, three / "fast", three / "slow", "--against", three / "slow")
    assert "fast against slow" in out
    assert "better, " in out or "better by" in out


def test_gate_over_many(three, capsys):
    out = printed(capsys, three / "fast", three / "middle", three / "slow", "--fail-if-slower", "40%", code=1)
    assert re.search(r"FAIL: slow is slower by (49|50)\.", out)
    assert "PASS: middle" in out


def test_text_fits_80_columns(three, save, capsys):
    long = doc(5, 120)
    long["effective"]["engine"] = "x" * 300
    long["environment"]["hardware"]["cpu"] = "word " * 60
    save("runs/" + "n" * 120, long)
    for words in ([three], [three, "--against", three / "slow"], [three, "--history"], [three / "fast", three / ("n" * 120)]):
        assert max(map(len, printed(capsys, *words).splitlines())) <= 80


def hostile(save):
    bad = doc(5, 120, incomplete_reason=HOSTILE, complete=False)
    bad["effective"] |= {"engine": HOSTILE, "precision": HOSTILE, "jit": HOSTILE}
    bad["settings"]["requested"] |= {"platform": HOSTILE, "precision": HOSTILE}
    bad["environment"] |= {"hardware": {"cpu": HOSTILE, HOSTILE: HOSTILE}, "versions": {"torch": HOSTILE}}
    bad["benchmark"] |= {"git_commit": HOSTILE, "version": HOSTILE, "git_dirty": False}
    bad["warnings"] = [{"name": HOSTILE, "message": HOSTILE, "remedy": HOSTILE}]
    bad["weights"] |= {"kind": HOSTILE, "sha256": "0" * 64}
    telemetry = full()["telemetry"]
    energy = {"joules": {HOSTILE: 12.0}, "joules_per_volume": {HOSTILE: 3.0}}
    bad["telemetry"] = {**telemetry, "energy": {**telemetry["energy"], **energy}}
    save("runs/<img src=x>", bad)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._in_script = [], [], [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)


@pytest.mark.parametrize("mode", [[], ["--history"], ["--anyway"]])
def test_values_are_escaped_in_every_format(three, save, tmp_path, mode, capsys):
    hostile(save)
    for form in ("text", "markdown", "csv", "json", "html"):
        out = printed(capsys, three, *mode, "--format", form)
        assert "\x1b" not in out
        if form == "html":
            page = Tags()
            page.feed(out)
            assert page.tags.count("script") == 1
            assert not {"img", "b", "iframe", "link"} & set(page.tags)
            assert not [name for name, _ in page.attributes if name.startswith("on")]
            used = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
            assert all(value.startswith("#") for value in used)
            [script] = page.scripts
            policy = dict(page.attributes)["content"]
            assert base64.b64encode(sha256(script.encode()).digest()).decode() in out
            assert "default-src" in policy or "default-src 'none'" in out
        elif form == "markdown":
            table = [line for line in out.splitlines() if line.startswith("|")]
            assert len(table) == 2 + 4
            assert "<script" not in out
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        elif form == "csv":
            lines = list(csv.reader(io.StringIO(out)))
            assert len(lines) == 5
            assert {len(line) for line in lines} == {len(lines[0])}
            assert not [cell for line in lines for cell in line if cell.startswith(("=", "+", "@"))]
        elif form == "json":
            assert len(json.loads(out)["rows"]) == 4
        else:
            assert max(map(len, out.splitlines())) <= 80
    two = printed(capsys, three / "fast", three / "<img src=x>", "--anyway")
    assert "\x1b" not in two


@pytest.mark.parametrize("name", ["slow/results.json", "slow/report.html", "link.json", "../runs/slow/results.json"])
def test_a_table_does_not_take_the_place_of_a_run(three, name, capsys):
    (three / "slow" / "report.html").write_text("the run's own")
    (three / "link.json").symlink_to(three / "slow" / "results.json")
    before = {path: path.read_bytes() for path in three.glob("slow/*")}
    assert cli.main(["compare", str(three / "slow"), str(three / "fast"), "--output", str(three / name)]) == 2
    told = capsys.readouterr().err
    assert "belongs to a run" in told and len(told.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in three.glob("slow/*")}


def test_the_files_ending_says_the_format(three, tmp_path, capsys):
    for name, begins in (
        ("a.html", "<!DOCTYPE html>"),
        ("a.md", "**3 of 3"),
        ("a.csv", "place,"),
        ("a.json", "{"),
        ("a.txt", "3 of 3"),
    ):
        assert printed(capsys, three, "--output", tmp_path / name).strip() == str(tmp_path / name)
        assert (tmp_path / name).read_text().startswith(begins)
    assert printed(capsys, three, "--output", tmp_path / "b.txt", "--format", "csv")
    assert (tmp_path / "b.txt").read_text().startswith("place,")


@pytest.mark.parametrize(
    "words",
    [
        ["--output", "page.pdf"],
        ["--format", "xml"],
        ["--format", "csv", "--markdown"],
        ["--history", "--against", "x"],
        ["--history", "--fail-if-slower", "5"],
        ["--against", "nowhere"],
        ["--output", "/nowhere/at/all.html"],
    ],
)
def test_bad_options_are_one_line(three, words, capsys):
    assert cli.main(["compare", str(three), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_page_draws_each_row_with_energy_and_memory(three, save, capsys):
    telemetry = full()["telemetry"]
    energy = {**telemetry["energy"], "joules": {"RAPL": 842.0}, "joules_per_volume": {"RAPL": 210.5}}
    save("runs/measured", doc(6, 80, telemetry={**telemetry, "energy": energy}))
    page = printed(capsys, three, "--format", "html")
    assert len(re.findall(r'id="memory-point-\d+"', page)) == 4
    assert re.findall(r'id="energy-point-(\d+)"', page) == ["0"]
    assert "210.5" in page


def aged(seed, mean, month, torch="2.13.0", cpu="A", **changes):
    made = doc(seed, mean, started=f"2026-{month:02}-01T00:00:00+00:00", **changes)
    made["environment"]["versions"]["torch"] = torch
    made["environment"]["hardware"]["cpu"] = cpu
    return made


def test_history_marks_regressions_of_the_same_machine_alone(save, tmp_path, capsys):
    save("h/one", aged(0, 100, 1, "2.11.0"))
    save("h/two", aged(1, 100.3, 2, "2.12.0"))
    save("h/three", aged(2, 112, 3, "2.13.0"))
    save("h/four", aged(3, 100, 4, "2.14.0"))
    save("h/other", aged(4, 300, 5, "2.14.0", cpu="B"))
    rows = rows_of(capsys, tmp_path / "h", "--history")
    assert list(rows) == ["one", "two", "three", "four", "other"]
    assert {name: row["regression"] for name, row in rows.items()} == {
        "one": None,
        "two": None,
        "three": True,
        "four": False,
        "other": None,
    }
    assert rows["three"]["against"] == "two"
    assert rows["three"]["differs"] == {"software.torch": "2.13.0"}
    out = printed(capsys, tmp_path / "h", "--history")
    assert out.count("REGRESSION") == 1
    assert "1 regressions beyond noise: three" in out


def history_of(save, tmp_path, capsys, first, second):
    """The rows of a slower result, after one of the same label, and the text; first, second: what is told of the hardware."""
    for name, mean, month, hardware in (("one", 100, 1, first), ("two", 150, 2, second)):
        made = aged(month, mean, month)
        made["environment"]["hardware"] |= hardware
        save(f"h/{name}", made)
    return rows_of(capsys, tmp_path / "h", "--history"), " ".join(printed(capsys, tmp_path / "h", "--history").split())


@pytest.mark.parametrize("other", [{"host": "second"}, {"instructions": ["avx2", "avx512f"]}, {"memory_bytes": 2**35}])
def test_history_keeps_machines_of_one_name_apart(save, tmp_path, capsys, other):
    rows, text = history_of(save, tmp_path, capsys, {"host": "first"}, {"host": "first", **other})
    assert [row["against"] for row in rows.values()] == [None, None]
    assert "REGRESSION" not in text and "several machines of one name, not compared" in text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"host": "first", "memory_bytes": 2**34}, {"host": "first", "memory_bytes": 2**34 - 2**25}),
        ({"host": "0a1b", "container": True}, {"host": "2c3d", "container": True}),
    ],
)
def test_another_kernel_or_container_does_not_end_a_machines_history(save, tmp_path, capsys, first, second):
    rows, text = history_of(save, tmp_path, capsys, {**first, "kernel": "6.1"}, {**second, "kernel": "6.2"})
    assert rows["two"]["regression"] and rows["two"]["differs"]["machine.kernel"] == "6.2"
    assert "1 regressions beyond noise: two" in text and "of one name" not in text


def test_history_takes_repeats_for_one_row_that_knows_how_much_runs_differ(save, tmp_path, capsys):
    for index, mean in enumerate((100, 108, 96)):
        save(f"h/a{index}", aged(index, mean, 1 + index, "2.12.0"))
    for index, mean in enumerate((103, 97, 109)):
        save(f"h/b{index}", aged(10 + index, mean, 5 + index, "2.13.0"))
    rows = rows_of(capsys, tmp_path / "h", "--history")
    assert list(rows) == ["a0 and 2 more", "b0 and 2 more"]
    assert rows["b0 and 2 more"]["regression"] is None
    assert rows["b0 and 2 more"]["runs"] == 3


def test_a_real_run_is_listed_by_its_samples(three, capsys):
    rows = rows_of(capsys, SMALL, three / "fast", three / "slow")
    [small] = [row for name, row in rows.items() if name.endswith("small_run.json")]
    assert small["place"] is None
    assert small["streams"] == 2
    written = json.loads(SMALL.read_text())["samples"]
    parts = zip(*(written[name] for name in ("start_s", "stage_ms", "latency_ms", "post_ms")), strict=True)
    busy = [(start - stage / 1e3, start + (latency + post) / 1e3) for start, stage, latency, post in parts]
    # Two streams, seven calls: from the later of the first ends to the earlier of the last ones.
    ends = {stream: [end for (_, end), s in zip(busy, written["stream"], strict=True) if s == stream] for stream in (0, 1)}
    low, high = max(min(each) for each in ends.values()), min(max(each) for each in ends.values())
    done = sum(max(0, min(end, high) - max(start, low)) / (end - start) for start, end in busy)
    assert small["throughput_with_overhead"] == pytest.approx(done / (high - low))
