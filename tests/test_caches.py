"""What is kept between runs: where, how it is shown and cleared, and that a run under way keeps what it uses."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unet3d import caches, cli
from unet3d.engines import export_cache
from unet3d.engines.base import Request

ROOT = Path(__file__).parents[1]
# Takes something from the cache, says so, and lives until its input ends.
HOLDER = """
import sys
from unet3d import caches
from unet3d.engines import export_cache
folder, _ = export_cache.get_or_make(caches.folder() / "onnx", ["a"], lambda folder: (folder / "model").write_text("x"))
print(folder, flush=True)
sys.stdin.read()
print((folder / "model").read_text(), flush=True)
"""
# A run up to its plan, which imports PyTorch. Then PyTorch itself says where torch.compile writes.
COMPILED = """
import subprocess, sys
from unet3d import cli
from unet3d.commands import run

def carry_out(plan, argv, lock):
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from pathlib import Path

    print(cache_dir(), flush=True)
    (Path(cache_dir()) / "kernel").touch()
    return subprocess.run([sys.executable, "predict.py", "cache", "clear", "inductor"], stdout=subprocess.DEVNULL).returncode

run.carry_out = carry_out
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for kind in caches.KINDS.values():
        if kind.variable:
            # Set first, so that what the test sets is undone.
            monkeypatch.setenv(kind.variable, "")
            monkeypatch.delenv(kind.variable)
    return tmp_path / "unet3d"


def put(folder, size=100_000):
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(b"x" * size)
    return folder


def test_shows_kind_size_age_and_path_and_clears_by_kind(cache, capsys):
    put(cache / "fused-0123456789abcdef", 3_000_000)
    old = put(cache / "onnx" / "abc")
    for path in (old / "content", old):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    put(cache / "layout-of-long-ago")
    assert cli.main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert f"Kept in {cache}" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["3.0", "MB", "just", "now", "fused-0123456789abcdef"] in lines
    assert ["0.1", "MB", "3", "days", "onnx/abc"] in lines
    assert ["0.1", "MB", "just", "now", "layout-of-long-ago"] in lines
    assert "3.2 MB in all" in shown
    assert max(map(len, shown.splitlines())) <= 100

    assert cli.main(["cache", "clear", "onnx"]) == 0
    assert capsys.readouterr().out == "1 entry removed, 0.1 MB\n"
    assert sorted(path.name for path in cache.iterdir() if not path.name.startswith(".")) == [
        "fused-0123456789abcdef",
        "layout-of-long-ago",
        "onnx",
    ]
    assert cli.main(["cache", "clear"]) == 0
    assert "2 entries removed, 3.1 MB" in capsys.readouterr().out
    assert cli.main(["cache"]) == 0
    assert "Nothing is kept" in capsys.readouterr().out


def test_an_absent_cache_is_empty(cache, capsys):
    assert cli.main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "0 entries removed, 0.0 MB\n"
    assert not cache.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["wipe"], "'wipe' is unknown; use nothing"),
        (["clear", "opeartors"], "did you mean operators?"),
        (["clear", "everything-else"], "use operators, openvino"),
        (["--all"], "'--all' is unknown"),
        (["x" * 10_000], "xx…' is unknown; use nothing to show what is kept"),
        (["clear", "\x1b[31m" * 10_000], "…' is no kind; use operators"),
    ],
)
def test_wrong_words_are_one_line_and_remove_nothing(cache, capsys, words, part):
    kept = put(cache / "onnx" / "abc")
    assert cli.main(["cache", *words]) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and part in told.err
    assert not told.out
    assert kept.is_dir()


def test_what_a_process_uses_is_not_removed_until_it_ends(cache, capsys):
    other = put(cache / "openvino" / "abc")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as running:
        kept = Path(running.stdout.readline().strip())
        assert cli.main(["cache", "clear"]) == 2
        told = capsys.readouterr()
        assert [line for line in told.err.splitlines() if "uses onnx, onnx was not removed" in line]
        assert "wait until the run has ended" in told.err
        # What nobody uses went.
        assert "1 entry removed" in told.out
        assert not other.exists() and (kept / "model").is_file()
        running.stdin.close()
        assert running.stdout.read() == "x\n"
    assert running.returncode == 0
    assert cli.main(["cache", "clear"]) == 0
    assert not kept.exists()


def test_whoever_comes_while_it_is_cleared_waits(cache):
    put(cache / "onnx" / "abc")
    with caches._alone("onnx"):
        running = subprocess.Popen(
            [sys.executable, "-c", HOLDER], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(timeout=3)
    assert running.communicate(timeout=60)[0].splitlines()[1:] == ["x"]


def test_kinds_that_no_table_declares_cannot_be_kept(cache):
    with pytest.raises(KeyError, match="secret"):
        export_cache.get_or_make(cache / "secret", ["a"], lambda folder: None)


def test_libraries_keep_theirs_in_the_same_folder_unless_told_otherwise(cache, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "elsewhere"))
    put(tmp_path / "elsewhere" / "kernel")
    caches.share()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "elsewhere")
    assert cli.main(["cache"]) == 0
    assert "named by TRITON_CACHE_DIR; cache clear leaves it alone" in capsys.readouterr().out
    assert cli.main(["cache", "clear", "triton"]) == 2
    assert "may be shared with other programs" in capsys.readouterr().err
    assert (tmp_path / "elsewhere" / "kernel").is_dir()


def test_a_run_has_torch_compile_write_to_the_cache_and_keeps_it_from_being_cleared(cache, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", COMPILED, "--platform=CPU", f"--output-dir={tmp_path / 'output'}"],
        cwd=ROOT,
        env={**os.environ, "WEIGHTS": "random"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, ended.stdout.split()) == (2, [str(cache / "inductor")]), ended.stderr
    assert "a run under way uses inductor" in ended.stderr


@pytest.mark.parametrize("named", ["", "here"])
def test_by_default_it_is_in_the_users_home_and_a_relative_place_counts_as_none(monkeypatch, tmp_path, named):
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.folder() == Request("torch", None, "fp32").cache_dir == tmp_path / ".cache" / "unet3d"


@pytest.mark.parametrize("named", ["file", "file/below", "/proc/nowhere"])
def test_without_a_place_it_is_kept_as_long_as_the_process(tmp_path, named):
    (tmp_path / "file").touch()
    ended = subprocess.run(
        [sys.executable, "-c", "from unet3d import caches; print(caches.folder()); caches.folder().mkdir()"],
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / named)},
        capture_output=True,
        text=True,
    )
    assert (
        ended.stderr.startswith(f"WARNING[cache]: {tmp_path / named} cannot be written to: ") and ended.stderr.count("\n") == 1
    )
    made = Path(ended.stdout.strip())
    assert made.name == "unet3d" and not made.parent.exists()
