"""A folder's lock: one holder, gone with its process, never in the way of the next."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from unet3d import locks
from unet3d.errors import UserError
from unet3d.locks import FolderLock

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys
from pathlib import Path
from unet3d.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]), "OUTPUT_DIR")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_one_is_told_who_holds_it(holder, tmp_path):
    with pytest.raises(UserError, match=rf"^OUTPUT_DIR: '{tmp_path}' is in use by another run \(process {holder.pid} on "):
        FolderLock(tmp_path, "OUTPUT_DIR")


def test_a_killed_holder_blocks_nobody(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / locks.NAME).exists()
    with FolderLock(tmp_path, "OUTPUT_DIR"):
        pass
    assert os.listdir(tmp_path) == []


def test_in_one_process_too_and_free_after_release(tmp_path):
    lock = FolderLock(tmp_path, "OUTPUT_DIR")
    with pytest.raises(UserError, match="in use"):
        FolderLock(tmp_path, "OUTPUT_DIR")
    lock.release()
    lock.release()
    with FolderLock(tmp_path, "OUTPUT_DIR"):
        assert stat.S_ISREG((tmp_path / locks.NAME).stat().st_mode)


def test_a_file_that_its_holder_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Who opened it just before waits for nothing: it has to make the file anew."""
    real, calls = locks.fcntl.flock, []

    def flock(descriptor, how):
        if not calls:
            (tmp_path / locks.NAME).unlink()
        calls.append(how)
        return real(descriptor, how)

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with FolderLock(tmp_path, "OUTPUT_DIR"):
        assert len(calls) == 2 and (tmp_path / locks.NAME).exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys, number):
    def refuse(descriptor, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with FolderLock(tmp_path, "OUTPUT_DIR"):
        pass
    assert capsys.readouterr().err.startswith("WARNING[no-lock]: ")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_its_place_is_one_line(tmp_path):
    (tmp_path / locks.NAME).mkdir()
    with pytest.raises(UserError, match=r"cannot be locked \(Is a directory\); name another folder with OUTPUT_DIR$"):
        FolderLock(tmp_path, "OUTPUT_DIR")
