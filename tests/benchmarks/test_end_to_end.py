"""end_to_end.py, tried out on the CPU: a row an engine and precision, and what cannot be measured is said."""

import json

import pytest

from benchmarks import end_to_end

WORDS = ["--platform", "CPU", "--shape", "64,64,64", "--calls", "2", "--jit", "none"]


def test_a_row_has_the_network_alone_and_the_whole(tmp_path, monkeypatch, capsys):
    for name, value in {"WEIGHTS": "sample", "WARM_UP": "1", "NETWORK": "reference"}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "rows.json"
    assert end_to_end.main([*WORDS, "--precisions", "fp32,fp64", "--output", str(file)]) == 1
    [row] = json.loads(file.read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("not measured: torch fp64") and "fp64" in printed[0]
    cells = printed[-1].split()
    assert cells[:2] == ["torch", "fp32"] and float(cells[4]) == pytest.approx(row["whole"] / row["alone"], abs=1e-3)
    assert row["alone"] == pytest.approx(1e3 / row["latency_ms_alone"])
    # One call at a time on a CPU: the host's work comes on top.
    assert len(row["ratios"]) == 2 and min(row["ratios"]) <= row["whole"] / row["alone"] <= max(row["ratios"])
    assert row["calls_under_way"] == 1 and 0 < row["whole"] <= 1e3 / row["latency_ms"]


def test_no_engine_of_that_name_is_one_line(capsys):
    assert end_to_end.main([*WORDS, "--engines", "none", "--precisions", "fp32"]) == 1
    assert "not measured: none fp32" in capsys.readouterr().out
