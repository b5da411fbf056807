"""Files are whole or not there, and earlier ones are kept."""

import errno
import os
import stat

import pytest

from unet3d import files
from unet3d.errors import UserError


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "results.yaml"
    files.write_atomically(path, "old")
    files.write_atomically(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["results.yaml"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "results.yaml"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*OUTPUT_DIR"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.yaml"]


def test_missing_folder_is_made_and_an_impossible_one_named(tmp_path):
    files.prepare_folder(tmp_path / "a" / "b", "OUTPUT_DIR")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="OUTPUT_DIR: .*file/x"):
        files.prepare_folder(tmp_path / "file" / "x", "OUTPUT_DIR")


def test_moved_aside_never_overwrites(tmp_path):
    path = tmp_path / "results.json"
    kept = []
    for text in ("first", "second", "third"):
        path.write_text(text)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        kept.append(files.move_aside(path))
    assert files.move_aside(path) is None
    assert len(set(kept)) == 3
    assert [moved.read_text() for moved in kept] == ["first", "second", "third"]
    assert all(moved.suffix == ".json" for moved in kept)
