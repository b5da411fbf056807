"""The commit that a result is of: that of the benchmark's own checkout, never of what lies around it."""

import shutil
import subprocess

import pytest

from unet3d.devices import host

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("UNET3D_COMMIT", "GIT_COMMIT", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


def repository(folder):
    """A repository with one committed file, which holds its name; its commit."""
    folder.mkdir()
    (folder / "file").write_text(folder.name)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@needs_git
def test_a_checkout_tells_its_commit_and_whether_files_differ(tmp_path):
    commit = repository(tmp_path / "own")
    assert host.git_state(tmp_path / "own") == (commit, False)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert host.git_state(tmp_path / "link") == (commit, False)
    (tmp_path / "own" / "file").write_text("two")
    assert host.git_state(tmp_path / "own") == (commit, True)


@needs_git
def test_a_release_within_another_repository_does_not_take_its_commit(tmp_path, monkeypatch):
    repository(tmp_path / "other")
    (tmp_path / "other" / "unet3d-1.0").mkdir()
    assert host.git_state(tmp_path / "other" / "unet3d-1.0") == (None, None)
    monkeypatch.setenv("UNET3D_COMMIT", "abc")
    assert host.git_state(tmp_path / "other" / "unet3d-1.0") == ("abc", None)


@needs_git
def test_a_repository_that_git_is_told_of_is_not_the_own(tmp_path, monkeypatch):
    """As in a hook, which git starts with the place of the repository in variables."""
    commit = repository(tmp_path / "own")
    repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert host.git_state(tmp_path / "own") == (commit, False)


def test_an_installed_package_does_not_take_the_commit_of_a_job(tmp_path, monkeypatch):
    """Jenkins puts that of the job's own repository into GIT_COMMIT."""
    monkeypatch.setattr(host, "CHECKOUT", False)
    monkeypatch.setenv("GIT_COMMIT", "of the job")
    assert host.git_state(tmp_path) == (None, None)
    monkeypatch.setenv("UNET3D_COMMIT", "of the image")
    assert host.git_state(tmp_path) == ("of the image", None)
