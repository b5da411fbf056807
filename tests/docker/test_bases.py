"""docker/bases.py: digests from a registry's API, asked of a server on this machine, and what the Dockerfiles get."""

import hashlib
import importlib.util
import json
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("bases", ROOT / "docker" / "bases.py")
bases = importlib.util.module_from_spec(spec)
sys.modules["bases"] = bases  # where dataclasses look
spec.loader.exec_module(bases)

INDEX = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}).encode()
SCOPE = "repository:library/python:pull"


class Registry(BaseHTTPRequestHandler):
    """As Docker Hub answers: a challenge, a token for the scope, then the manifest."""

    def do_GET(self):
        port, url = self.server.server_port, urlsplit(self.path)
        if url.path == "/token":
            asked = parse_qs(url.query)
            token = "good" if asked == {"service": ["registry"], "scope": [SCOPE]} else "bad"
            return self.answer(200, json.dumps({"token": token}).encode())
        if self.headers.get("Authorization") != "Bearer good":
            scope = f"repository:{url.path.removeprefix('/v2/').partition('/manifests')[0]}:pull"
            realm = f'Bearer realm="http://127.0.0.1:{port}/token",service="registry",scope="{scope}"'
            return self.answer(401, b"{}", **{"WWW-Authenticate": realm})
        if url.path == "/v2/library/python/manifests/wrong":
            return self.answer(200, INDEX, **{"Docker-Content-Digest": f"sha256:{'0' * 64}"})
        if url.path != "/v2/library/python/manifests/3.11" or "oci.image.index" not in self.headers["Accept"]:
            return self.answer(404, b"{}")
        return self.answer(200, INDEX, **{"Docker-Content-Digest": f"sha256:{hashlib.sha256(INDEX).hexdigest()}"})

    def answer(self, code, content, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def registry():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def docker(tmp_path):
    """A copy of the Dockerfiles, and a function that gives its lock file these lines."""
    for path in (ROOT / "docker").glob("*/*/*Dockerfile"):
        target = tmp_path / path.relative_to(ROOT / "docker")
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)

    def lock(*lines):
        (tmp_path / "bases.lock").write_text("\n".join(["# A comment.", *lines]) + "\n")
        return tmp_path

    return lock


def base_of(path):
    return re.search(r"^ARG BASE_IMAGE=(.*)$", path.read_text(), re.MULTILINE)[1]


def test_renewed_digest_is_what_the_registry_sent_and_reaches_the_dockerfile(registry, docker, capsys):
    folder = docker(f"cpu {registry}/library/python:3.11 -")
    assert bases.main(["renew"], folder) == 0
    wanted = f"{registry}/library/python:3.11@sha256:{hashlib.sha256(INDEX).hexdigest()}"
    assert base_of(bases.dockerfile("cpu", folder)) == wanted
    assert (folder / "bases.lock").read_text().startswith("# A comment.\ncpu  ")
    assert "was -, is sha256:" in capsys.readouterr().out
    assert bases.main(["image", "cpu"], folder) == 0
    assert capsys.readouterr().out == f"{wanted}\n"
    assert bases.main(["renew"], folder) == 0
    assert "is unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ("cuda 127.0.0.1:9/some/image:1 -", "127.0.0.1:9 cannot be asked"),
        ("cuda {registry}/library/python:absent -", "answers 404"),
        ("cuda {registry}/library/python:wrong -", "but what it sent is sha256:"),
        ("cuda {registry}/other/image:3.11 -", "answers 401"),
        ("other {registry}/library/python:3.11 -", "0 Dockerfiles are for other"),
    ],
)
def test_where_one_digest_cannot_be_had_nothing_is_changed(registry, docker, capsys, second, part):
    folder = docker(f"cpu {registry}/library/python:3.11 -", second.format(registry=registry))
    before = base_of(bases.dockerfile("cpu", folder)), (folder / "bases.lock").read_text()
    assert bases.main(["renew"], folder) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and part in told
    assert (base_of(bases.dockerfile("cpu", folder)), (folder / "bases.lock").read_text()) == before


@pytest.mark.parametrize(
    ("words", "lines", "part"),
    [
        (["renw"], [], "'renw' is unknown; use renew"),
        (["image", "tpu"], ["cpu a:1 -"], "'tpu' is no base; use cpu"),
        ([], ["cpu python sha256:12"], "bases.lock:2: 'cpu python sha256:12' is not NAME IMAGE:TAG DIGEST"),
    ],
)
def test_wrong_words_and_lines_are_one_line(docker, capsys, words, lines, part):
    assert bases.main(words, docker(*lines)) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and part in told


def test_names_are_read_as_docker_reads_them():
    assert bases.place("python:3.11") == ("https://registry-1.docker.io", "library/python", "3.11")
    assert bases.place("pytorch/pytorch:2-a") == ("https://registry-1.docker.io", "pytorch/pytorch", "2-a")
    assert bases.place("ghcr.io/a/b:1") == ("https://ghcr.io", "a/b", "1")
    assert bases.place("localhost:5000/a:1") == ("http://localhost:5000", "a", "1")


def test_dockerfiles_are_those_of_the_lock_file_and_a_tag_alone_is_told(capsys):
    locked = bases.read()
    assert {base.name: base_of(bases.dockerfile(base.name)) for base in locked} == {
        base.name: base.reference for base in locked
    }, "run python docker/bases.py write"
    assert len(locked) == len([*(ROOT / "docker").glob("*/*/*Dockerfile")])
    assert bases.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("no digest yet" in line) for line in lines] == [base.digest is None for base in locked]
