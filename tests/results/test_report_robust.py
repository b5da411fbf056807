"""Reports of any document that is read, and of any pictures beside it: drawn or told in one line."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_results import full, places, replaced, results

from unet3d import cli
from unet3d.results import document, report
from unet3d.results.report import slices

NAMES = ["$x^$", "<script>alert(1)</script>", "\x00\x1b[31m", "日本語", "|`*_", "x" * 5000, "", "-->", "{{ 7*7 }}"]


def value_at(value, place):
    for key in place:
        value = value[key]
    return value


def one_line_or_drawn(path, capsys, recwarn):
    code = cli.main(["report", str(path)])
    told = capsys.readouterr().err
    assert (code, told) == (0, "") or (code == 2 and told[:-1].isprintable()), told
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    return code


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_text_and_number_that_is_read_is_drawn(data, tmp_path, capsys, recwarn):
    doc = full()
    place = data.draw(st.sampled_from([place for place in places(doc) if isinstance(value_at(doc, place), (str, int, float))]))
    new = data.draw(st.one_of(st.sampled_from(NAMES), st.sampled_from([0, 1, 10**19, 1e-300, 1e19, -1, True, None, 2**53])))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(replaced(doc, place, new)))
    one_line_or_drawn(path, capsys, recwarn)


@pytest.mark.parametrize("key", ["latency_ms", "own_latency_ms", "difference"])
def test_text_in_place_of_loadgens_figures_is_refused(key, tmp_path, capsys, recwarn):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(replaced(full(), ("loadgen", "performance", key, "p90"), "$x^$")))
    assert one_line_or_drawn(path, capsys, recwarn) == 2


@pytest.mark.parametrize("latencies", [[100.0, 100.00000000000001], [1e-9, 1e12], [1e10] * 3, [1e-9] * 3])
def test_latencies_of_any_size_are_drawn(latencies, tmp_path, capsys, recwarn):
    (tmp_path / "results.json").write_text(json.dumps(results(latencies)))
    assert one_line_or_drawn(tmp_path, capsys, recwarn) == 0


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GREY = np.zeros((8, 8), np.uint8)
PICTURES = {"best_name": np.array("HGG__a"), "best_z": np.array(3), "best_predicted": GREY, "best_truth": GREY}
PICTURES |= {"best_flair": GREY + 1, "best_t1ce": GREY + 1}
BOMB = (
    b"\x93NUMPY\x01\x00\x76\x00"
    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000, 60000), }".ljust(0x75)
    + b"\n"
)


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(f"{name}.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        npz(),
        npz(**{**PICTURES, "best_flair": np.zeros((8, 8, 3), np.uint8)}),
        npz(**{**PICTURES, "best_flair": np.zeros((4, 8), np.uint8)}),
        npz(**{**PICTURES, "best_flair": np.full((8, 8), np.nan)}),
        npz(**{**PICTURES, "best_z": np.array("x")}),
        npz(**{**PICTURES, "best_z": np.zeros(3)}),
        npz(**{**PICTURES, "best_predicted": np.zeros((0, 0), np.uint8)}),
        npz(best_name=np.array("HGG__a")),
        archive(best_name=BOMB),
        archive(best_name=bytes(2**25)),
        archive(**{f"a{number}": b"" for number in range(100)}),
        archive(best_name=b"\x93NUMPY\x01\x00\xff\xff"),
    ],
)
def test_damaged_pictures_are_left_out(content, tmp_path, capsys, recwarn):
    doc = full()
    (tmp_path / slices.FILE).write_bytes(content)
    (tmp_path / "results.json").write_text(json.dumps(doc))
    assert slices.load(tmp_path, doc["accuracy"]["cases"]) == []


def test_whole_pictures_are_shown_and_a_pipe_is_not(tmp_path):
    cases = full()["accuracy"]["cases"]
    (tmp_path / slices.FILE).write_bytes(npz(**PICTURES))
    assert [shown.name for shown in slices.load(tmp_path, cases)] == ["HGG__a"]
    (tmp_path / slices.FILE).unlink()
    os.mkfifo(tmp_path / slices.FILE)
    assert slices.load(tmp_path, cases) == []


def test_every_section_is_on_the_page(tmp_path):
    html = report.page(full(), tmp_path)
    for text in ("Time by layer", "On the machine", "While measuring", "Mean Dice", "not valid for submission"):
        assert text in html
    assert document.to_yaml(full()).startswith("results:")
