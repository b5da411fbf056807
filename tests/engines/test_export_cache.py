"""Exports: made once, whole or made again."""

import os

import pytest

from unet3d.engines import export_cache


def make_in(folder, made):
    def make(draft):
        made.append(len(made))
        (draft / "model.xml").write_text("model")
        (draft / "weights").mkdir()
        (draft / "weights" / "model.bin").write_bytes(bytes(1000))

    return export_cache.get_or_make(folder / "onnx", ["network", "version"], make)


def test_an_export_is_made_once(tmp_path):
    made = []
    folder, was_there = make_in(tmp_path, made)
    assert not was_there and make_in(tmp_path, made) == (folder, True) and made == [0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "weights" / "model.bin", 500),
        lambda folder: (folder / "model.xml").write_text("other"),
        lambda folder: (folder / "model.xml").unlink(),
        lambda folder: (folder / "more").write_text("foreign"),
        lambda folder: (folder / export_cache.SUMS).write_text("{"),
        lambda folder: (folder / export_cache.SUMS).unlink(),
    ],
)
def test_a_damaged_export_is_made_again(tmp_path, damage):
    made = []
    folder, _ = make_in(tmp_path, made)
    damage(folder)
    assert make_in(tmp_path, made) == (folder, False)
    assert export_cache.whole(folder) and make_in(tmp_path, made) == (folder, True) and made == [0, 1]
