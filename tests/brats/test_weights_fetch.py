"""The fetch against a server on the loopback interface that misbehaves in every way met in practice."""

import hashlib
import io
import os
import re
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from unet3d.brats.weights import __main__, fetch, unpack
from unet3d.errors import UserError

FAST = {"pause": 0.0, "seconds": 3.0, "progress": False}


def make_zip(names=("a/plans.pkl", "a/fold_1/model_final_checkpoint.model"), size=200_000):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, np.random.default_rng(number).bytes(size))
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `body`; cuts the first `cuts` answers after a third of what they ought to send."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cuts, self.ranges, self.statuses, self.etag, self.shift = body, 0, True, [], '"v1"', 0
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}/fold_1.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        data = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(data)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            data = data[: len(data) // 3]
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = Server(make_zip())
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("WEIGHTS_URL", server.url)
    monkeypatch.delenv("WEIGHTS_SHA256", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetched_recorded_and_used_again(server, tmp_path):
    archive = fetch.fetch(tmp_path, **FAST)
    assert archive.read_bytes() == server.body
    record = unpack.read_json(unpack.record_path(archive))
    assert record["sha256"] == hashlib.sha256(server.body).hexdigest()
    assert (record["url"], record["bytes"]) == (server.url, len(server.body))
    assert fetch.fetch(tmp_path, **FAST) == archive
    assert len(server.requests) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold_1.zip", "fold_1.zip.json"]


def test_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    server.cuts = 3
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body
    starts = [int(asked[6:-1]) if asked else 0 for asked in server.requests]
    assert starts[0] == 0 and starts == sorted(set(starts)) and len(starts) == 4


def test_part_of_an_earlier_call_is_continued(server, tmp_path):
    server.cuts = 1
    with pytest.raises(fetch.Unreachable, match=r"connection closed after \d+ of \d+ bytes"):
        fetch.fetch(tmp_path, **FAST, attempts=1)
    assert not (tmp_path / "fold_1.zip").exists()
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body
    assert server.requests[1] is not None


@pytest.mark.parametrize("etag", ['"v1"', ""])
def test_server_without_ranges_sends_all_again(server, tmp_path, etag):
    server.ranges, server.cuts, server.etag = False, 2, etag
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body


def test_file_that_changed_in_between_is_not_mixed(server, tmp_path):
    server.cuts = 1
    with pytest.raises(fetch.Unreachable):
        fetch.fetch(tmp_path, **FAST, attempts=1)
    server.body, server.etag = make_zip(("b/plans.pkl",), 150_000), '"v2"'
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body


def test_another_range_than_asked_for_is_not_appended(server, tmp_path):
    server.cuts, server.shift = 1, 7
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body
    assert [bool(asked) for asked in server.requests] == [False, True, False]


def test_server_in_trouble_is_asked_again_a_missing_file_is_not(server, tmp_path):
    server.statuses = [503, 429]
    assert fetch.fetch(tmp_path, **FAST).read_bytes() == server.body
    server.requests.clear()
    server.statuses = [404]
    with pytest.raises(fetch.Unreachable, match="HTTP 404"):
        fetch.fetch(tmp_path / "other", **FAST)
    assert len(server.requests) == 1
    server.statuses = [500] * 9
    with pytest.raises(fetch.Unreachable, match="HTTP 500, given up after 3 attempts"):
        fetch.fetch(tmp_path / "other", **FAST, attempts=3)


def test_pauses_double(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(fetch.time, "sleep", pauses.append)
    server.statuses = [503] * 4
    fetch.fetch(tmp_path, seconds=3, pause=0.5, progress=False)
    assert pauses == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_truncated_archive(server, tmp_path, keep):
    """The server itself has a part of the file only, and announces that part's length."""
    server.body = server.body[: int(len(server.body) * keep)]
    with pytest.raises(UserError, match="not a complete zip archive"):
        fetch.fetch_or_explain(tmp_path, **FAST)
    assert list(tmp_path.glob("fold_1*")) == [tmp_path / "fold_1.zip.part.json"]


def test_damaged_archive(server, tmp_path):
    body = bytearray(server.body)
    body[1000] ^= 1
    server.body = bytes(body)
    with pytest.raises(UserError, match="damaged"):
        fetch.fetch(tmp_path, **FAST)


def test_wrong_checksums(server, tmp_path, monkeypatch):
    server.etag = '"md5:' + "0" * 32 + '"'
    with pytest.raises(UserError, match="that the server states"):
        fetch.fetch(tmp_path, **FAST)
    server.etag = f'"md5:{hashlib.md5(server.body).hexdigest()}"'
    monkeypatch.setenv("WEIGHTS_SHA256", "ab" * 32)
    with pytest.raises(UserError, match="in WEIGHTS_SHA256"):
        fetch.fetch(tmp_path, **FAST)
    monkeypatch.setenv("WEIGHTS_SHA256", hashlib.sha256(server.body).hexdigest().upper())
    archive = fetch.fetch(tmp_path, **FAST)
    archive.write_bytes(server.body + b"x")
    with pytest.raises(UserError, match="recorded when it was fetched"):
        fetch.fetch(tmp_path, **FAST)
    archive.unlink()
    server.body = make_zip(("c/plans.pkl",))
    server.etag = '"v3"'
    monkeypatch.delenv("WEIGHTS_SHA256")
    with pytest.raises(UserError, match=r"recorded in .*fold_1.zip.json"):
        fetch.fetch(tmp_path, **FAST)


def test_unpacked_once(server, tmp_path):
    folder = fetch.fetch_or_explain(tmp_path, **FAST)
    assert folder == tmp_path / "fold_1"
    assert (folder / "a/plans.pkl").stat().st_size == 200_000
    before = (folder / "origin.json").stat().st_mtime_ns
    assert fetch.fetch_or_explain(tmp_path, **FAST) == folder
    assert (folder / "origin.json").stat().st_mtime_ns == before and len(server.requests) == 1


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_other_users_may_read_what_they_may_read_of_this_one(server, tmp_path, mask):
    """A container fetches as root and runs as another user, to whom weights without a readable record are unknown."""
    before = os.umask(mask)
    try:
        folder = fetch.fetch_or_explain(tmp_path, **FAST)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*"), *tmp_path.glob("fold_1.zip*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_host_that_refuses_is_explained_in_one_line(tmp_path, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WEIGHTS_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/fold_1.zip")
        monkeypatch.setenv("no_proxy", "*")
        assert fetch.fetch_or_explain(tmp_path, **FAST) is None
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and "going on with random weights" in printed and "Connection refused" in printed


def test_host_that_stays_silent_is_given_up(tmp_path, monkeypatch):
    """A socket that listens and never answers: as behind a firewall that swallows packets."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WEIGHTS_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/fold_1.zip")
        monkeypatch.setenv("no_proxy", "*")
        lines = []
        assert fetch.fetch_or_explain(tmp_path, lines.append, seconds=0.3, progress=False) is None
    assert len(lines) == 1 and "timed out" in lines[0]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/fold_1.zip",
        "file:///etc/passwd",
        "fold_1.zip",
        "https://",
        "http://[",
        "http://é/",
        "http://a:x/",
        "http://a:0/",
    ],
)
def test_addresses_that_are_none(tmp_path, monkeypatch, url):
    monkeypatch.setenv("WEIGHTS_URL", url)
    with pytest.raises(UserError, match="WEIGHTS_URL is"):
        fetch.fetch_or_explain(tmp_path)


def test_command(server, tmp_path, capsys):
    assert __main__.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"Weights: {tmp_path / 'fold_1'}\n"
    (tmp_path / "fold_1.zip").write_bytes(b"other")
    assert __main__.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ERROR") and error.count("\n") == 1


def write_zip(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name  # ZipInfo's constructor would clean the name
            info.external_attr = mode << 16
            archive.writestr(info, content)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:/evil", "a\\evil", "C:evil"])
def test_path_that_would_leave_the_folder(tmp_path, name):
    write_zip(tmp_path / "evil.zip", [("good", b"1", 0o100644), (name, b"2", 0o100644)])
    with pytest.raises(UserError, match="outside the folder"):
        unpack.unpack(tmp_path / "evil.zip", tmp_path / "in" / "out")
    assert [p.name for p in tmp_path.rglob("*")] in (["evil.zip", "in"], ["in", "evil.zip"])


def test_links_devices_and_doubles(tmp_path):
    write_zip(tmp_path / "link.zip", [("link", b"/etc", 0o120777), ("link/passwd", b"2", 0o100644)])
    with pytest.raises(UserError, match="is a link or a device"):
        unpack.unpack(tmp_path / "link.zip", tmp_path / "out")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_zip(tmp_path / "twice.zip", [("a", b"1", 0o100644), ("a", b"2", 0o100644)])
    with pytest.raises(UserError, match="there twice"):
        unpack.unpack(tmp_path / "twice.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits(tmp_path, monkeypatch):
    write_zip(tmp_path / "big.zip", [(str(i), b"0" * 1000, 0o100644) for i in range(5)])
    monkeypatch.setattr(unpack, "MAX_BYTES", 4999)
    with pytest.raises(UserError, match="would unpack to 5000 bytes, at most 4999"):
        unpack.unpack(tmp_path / "big.zip", tmp_path / "out")
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 4)
    with pytest.raises(UserError, match="holds 5 files, at most 4"):
        unpack.unpack(tmp_path / "big.zip", tmp_path / "out")


def test_unpacking_replaces_whole_or_not_at_all(tmp_path):
    write_zip(tmp_path / "one.zip", [("a", b"1", 0o100644)])
    write_zip(tmp_path / "two.zip", [("b", b"2", 0o100644)])
    folder = unpack.unpack(tmp_path / "one.zip", tmp_path / "out", {"url": "u"})
    assert unpack.read_json(folder / "origin.json") == {"url": "u", "files": {"a": hashlib.sha256(b"1").hexdigest()}}
    unpack.unpack(tmp_path / "two.zip", folder)
    assert sorted(p.name for p in folder.iterdir()) == ["b", "origin.json"]
    damaged = bytearray((tmp_path / "one.zip").read_bytes())
    damaged[31] ^= 255
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(UserError, match="not a complete zip"):
        unpack.unpack(tmp_path / "bad.zip", folder)
    assert (folder / "b").read_bytes() == b"2"
    assert not list(tmp_path.glob(".out*"))
