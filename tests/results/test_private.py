"""What is published tells of no home folder."""

import json
import os

import pytest
from making import record_of, settings_of

from unet3d.results import document
from unet3d.results.private import without_homes
from unet3d.results.timing import Sample


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ann/data", "~/data"),
        ("/home/ann", "~"),
        ("--dataset-dir=/home/ann/data", "--dataset-dir=~/data"),
        ("'/home/ann/x' and /home/ann/y:/home/ann", "'~/x' and ~/y:~"),
        ("/home/anna/data", "/home/…/data"),
        ("/home/ann.old/x", "/home/…/x"),
        ("LD_PRELOAD /Users/bob/lib.so", "LD_PRELOAD /Users/…/lib.so"),
        ("/data/home/ann", "/data/home/ann"),
        ("/mnt/brats", "/mnt/brats"),
        ("no path", "no path"),
        ("/home/…/x", "/home/…/x"),
    ],
)
def test_homes_are_not_named(monkeypatch, text, shown):
    monkeypatch.setenv("HOME", "/home/ann/")
    assert without_homes(text) == shown
    assert without_homes(shown) == shown


@pytest.mark.parametrize("home", ["/", "", "relative"])
def test_a_home_that_is_none_changes_nothing(monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "getuid", lambda: 987654321)
    assert without_homes("/usr/share and relative/x") == "/usr/share and relative/x"


def test_no_part_of_the_results_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = settings_of(output_dir=tmp_path / "out", dataset_dir=tmp_path / "data")
    (tmp_path / "out").mkdir()
    record = record_of(settings, command=["predict.py", f"--dataset-dir={tmp_path}/data"], samples=[Sample(0.0, 0.1)])
    record.environment = {"variables": {"LD_PRELOAD": f"{tmp_path}/lib.so"}}
    record.finish(f"{tmp_path}/data: cannot be read")
    doc = document.write(record, tmp_path / "out")
    assert doc["settings"]["requested"]["dataset_dir"] == "~/data"
    for name in ("results.json", "results.yaml"):
        text = (tmp_path / "out" / name).read_text()
        assert "~" in text and str(tmp_path) not in text
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == doc
