"""Files and folders are whole or not there, readable as the user's other files are, and earlier ones are kept."""

import ast
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet3d import files
from unet3d.errors import UserError, shown

ROOT = Path(__file__).parents[1]


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "results.yaml"
    files.write_atomically(path, "old")
    files.write_atomically(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["results.yaml"]


def test_bytes_are_written_as_they_are_and_text_as_utf8(tmp_path):
    files.write_atomically(tmp_path / "a", b"\r\n\x00\xff")
    files.write_atomically(tmp_path / "b", "×\n")
    assert (tmp_path / "a").read_bytes() == b"\r\n\x00\xff"
    assert (tmp_path / "b").read_bytes() == "×\n".encode()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_are_those_of_other_files_of_the_user(tmp_path, umask, mask):
    umask(mask)
    files.write_atomically(tmp_path / "written", "x")
    with files.whole_file(tmp_path / "filled.npz") as partial:
        partial.write_bytes(b"x")
    with files.whole_folder(tmp_path / "folder") as partial:
        (partial / "inside").write_text("x")
    (tmp_path / "other").write_text("x")
    (tmp_path / "other folder").mkdir()
    assert mode(tmp_path / "written") == mode(tmp_path / "filled.npz") == mode(tmp_path / "other") == 0o666 & ~mask
    assert mode(tmp_path / "folder") == mode(tmp_path / "other folder") == 0o777 & ~mask


def test_a_private_file_is_replaced_by_one_that_others_may_read(tmp_path, umask):
    umask(0o022)
    path = tmp_path / "fold_1.zip.json"
    path.touch(0o600)
    files.write_atomically(path, "{}")
    assert mode(path) == 0o644


def test_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "results.yaml"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device.*OUTPUT_DIR") as caught:
        files.write_atomically(path, "new")
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.yaml"]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "volume.npz"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.whole_file(path) as partial:
        partial.write_text("half")
        assert partial.name.endswith(".npz")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["volume.npz"]


WRITER = """
import sys
from pathlib import Path
from unet3d import files
path = Path(sys.argv[1])
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        files.write_atomically(path, letter * 300_000)
"""


def test_a_kill_in_the_middle_leaves_the_old_or_the_new(tmp_path):
    path, caught = tmp_path / "file", 0
    for attempt in range(12):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.003 * attempt)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if path.exists():
            assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)
        leftovers = [name for name in os.listdir(tmp_path) if name != "file"]
        assert all(name.startswith(files.PARTIAL) for name in leftovers)
        caught = max(caught, len(leftovers))
    assert path.exists()
    assert caught, "at least one was killed between the first byte and the new name"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, there):
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(Path("elsewhere") / "file")
    files.write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == link.read_text() == "new"
    assert os.listdir(target.parent) == ["file"]


@pytest.mark.parametrize("link", [True, False])
def test_pipes_and_devices_are_not_replaced(tmp_path, link):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(UserError, match=r"cannot be written \(it is a named pipe\)"):
        files.write_atomically(tmp_path / "link" if link else pipe, "new")
    assert pipe.is_fifo() and sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_link_to_nowhere_is_one_line(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "absent" / "file")
    with pytest.raises(UserError, match="link: cannot be written"):
        files.write_atomically(tmp_path / "link", "new")


def test_long_names_have_room(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")
    files.write_atomically(path, "x")
    assert [name.name for name in tmp_path.iterdir()] == [path.name]


def test_folders_appear_whole(tmp_path):
    final = tmp_path / "final"
    with pytest.raises(ZeroDivisionError), files.whole_folder(final) as partial:
        (partial / "a").write_text("half")
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with files.whole_folder(final) as partial:
        (partial / "a").write_text("first")
        assert not final.exists()
    with files.whole_folder(final) as partial:
        (partial / "a").write_text("second")
    assert (final / "a").read_text() == "first", "another process was first"
    with files.whole_folder(final, replace=True) as partial:
        (partial / "b").write_text("third")
    assert [path.name for path in final.iterdir()] == ["b"]
    assert os.listdir(tmp_path) == ["final"]


def test_leftovers_are_removed_once_they_are_old(tmp_path):
    for name in ("old", "young"):
        (tmp_path / f"{files.PARTIAL}{name}").write_text("x")
        (tmp_path / f"{files.PARTIAL}{name}-folder").mkdir()
    (tmp_path / "kept").write_text("x")
    for name in ("old", "old-folder"):
        os.utime(tmp_path / f"{files.PARTIAL}{name}", (1, 1))
    os.utime(tmp_path / "kept", (1, 1))
    files.remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([f"{files.PARTIAL}young", f"{files.PARTIAL}young-folder", "kept"])


# Files that nobody reads while they are written, or that are no results: the ranks' private scratch files, the table in the
# README, the schema that comes with the package, a switch of the kernel.
OTHER_WRITERS = {"ranks/launch.py", "ranks/rank.py", "config/table.py", "devices/host.py", "results/json_schema.py"}
WRITERS = {"mkstemp", "NamedTemporaryFile", "chmod", "fchmod", "write_text", "write_bytes"}


def test_nothing_else_in_the_package_writes_files_by_itself():
    writers = []
    for path in sorted((ROOT / "unet3d").rglob("*.py")):
        name = path.relative_to(ROOT / "unet3d").as_posix()
        if name == "files.py" or name in OTHER_WRITERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            if (node.func.attr in WRITERS and "partial" not in owner) or (node.func.attr == "replace" and owner == "os"):
                writers.append(f"{name}:{node.lineno}: {owner}.{node.func.attr}")
    assert not writers, "use unet3d.files"


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


@pytest.fixture
def kinds(tmp_path):
    """A path of every kind that is no regular file."""
    listening = socket.socket(socket.AF_UNIX)
    os.mkfifo(tmp_path / "pipe")
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "to device").symlink_to("/dev/zero")
    (tmp_path / "to pipe").symlink_to("pipe")
    (tmp_path / "to nothing").symlink_to("absent")
    (tmp_path / "ring").symlink_to("ring")
    names = ("pipe", "socket", "folder", "to device", "to pipe", "to nothing", "ring", "absent", "a" * 300, "nul\0")
    yield [*(tmp_path / name for name in names), Path("/dev/zero"), Path("/dev/null"), tmp_path / "folder" / "\udce4"]
    listening.close()


@pytest.mark.timeout(20)  # a pipe that is waited for never ends
def test_only_regular_files_are_read(kinds, tmp_path):
    for path in kinds:
        for read in (files.require_regular, lambda path, what: files.read_regular(path, 10, what)):
            with pytest.raises(UserError) as caught:
                read(path, "results")
            assert str(caught.value).startswith("results ") and str(caught.value).isprintable()
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    assert files.read_regular(tmp_path / "link", 10, "results") == b"0123456789"
    files.require_regular(str(tmp_path / "link"), "results")


def test_no_more_is_read_than_is_allowed(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    for path, limit in ((tmp_path / "sparse", 2**30), (Path("/proc/self/maps"), 100)):
        with pytest.raises(UserError, match=rf"at most {limit} are allowed"):
            files.read_regular(path, limit, "weights")


@given(st.one_of(st.text(max_size=300), st.binary(max_size=300).map(os.fsdecode)))
def test_what_is_echoed_is_one_printable_line(value):
    text = shown(value)
    assert text.isprintable() and len(text) <= 200
    assert text == value or len(value) > 200 or not value.isprintable()


def test_what_is_echoed_is_escaped_and_cut():
    assert shown("\x1b[31m\n") == r"\x1b[31m\n" and shown("Köln") == "Köln"
    assert shown("a" * 10**6) == "a" * 199 + "…" and len(shown("\x00" * 10**6, 50)) == 50
