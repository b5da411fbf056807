#!/usr/bin/env python3
"""Pins the base images of the Dockerfiles by digest. Standard library and this package only; from the repository's root:

python docker/bases.py                 which base is pinned by digest, which only by its tag
python docker/bases.py renew           ask the registries for today's digests, and write them down
python docker/bases.py write           write the Dockerfiles anew from docker/bases.lock, after a change of a tag in it
python docker/bases.py image cpu       print one base as `docker pull` takes it

docker/bases.lock is the one place of names, tags and digests; the Dockerfiles' BASE_IMAGE is written from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unet3d.errors import BenchmarkError, UserError, tell
from unet3d.files import write_atomically

DOCKER = Path(__file__).resolve().parent
LOCK = DOCKER / "bases.lock"
HUB = "registry-1.docker.io"
TIMEOUT_S = 20
NOT_YET = "-"
DIGEST = r"sha256:[0-9a-f]{64}"
ARGUMENT = re.compile(r"^ARG BASE_IMAGE=.*$", re.MULTILINE)
# An index names an image for each architecture; its digest is the same on all machines.
MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


@dataclass(frozen=True)
class Base:
    """A line of the lock file. digest: None until it has been looked up."""

    name: str
    image: str
    digest: str | None

    @property
    def reference(self) -> str:
        """What docker takes: with the digest, the tag is for readers only."""
        return self.image if self.digest is None else f"{self.image}@{self.digest}"


def read(lock: Path = LOCK) -> list[Base]:
    """The bases of a lock file.

    Raises:
        UserError: naming the line that cannot be understood.
    """
    bases = []
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{lock}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(rf"(\w+)\s+([\w./:-]+:[\w.-]+)\s+({NOT_YET}|{DIGEST})", line.strip())
        if not match:
            raise UserError(f"{lock}:{number}: {line.strip()!r} is not NAME IMAGE:TAG DIGEST, or - for no digest yet")
        name, image, digest = match.groups()
        bases.append(Base(name, image, None if digest == NOT_YET else digest))
    return bases


def written(bases: Sequence[Base], lock: Path = LOCK) -> str:
    """The lock file's text with these bases in place of its own; its comments stay."""
    comments = [line for line in lock.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    names = max(len(base.name) for base in bases)
    images = max(len(base.image) for base in bases)
    rows = [f"{base.name:<{names}}  {base.image:<{images}}  {base.digest or NOT_YET}" for base in bases]
    return "\n".join([*comments, *rows]) + "\n"


def dockerfile(name: str, docker: Path = DOCKER) -> Path:
    """The one Dockerfile of a base's name.

    Raises:
        UserError: when there is none, or more than one.
    """
    found = [path for path in docker.glob("*/*/*Dockerfile") if path.parents[1].name.split("-")[0] == name]
    if len(found) != 1:
        raise UserError(f"{docker}: {len(found)} Dockerfiles are for {name}, named in bases.lock; there must be one")
    return found[0]


def dockerfiles(bases: Sequence[Base], docker: Path = DOCKER) -> dict[Path, str]:
    """The text of each Dockerfile with its base.

    Raises:
        UserError: when a Dockerfile is not there or has no BASE_IMAGE.
    """
    texts = {}
    for base in bases:
        path = dockerfile(base.name, docker)
        text = path.read_text(encoding="utf-8")
        if len(ARGUMENT.findall(text)) != 1:
            raise UserError(f"{path}: one line ARG BASE_IMAGE=… is needed")
        texts[path] = ARGUMENT.sub(f"ARG BASE_IMAGE={base.reference}", text)
    return texts


def write(texts: dict[Path, str]) -> None:
    """Write files, each whole.

    Raises:
        UserError: when one cannot be written.
    """
    for path, text in texts.items():
        write_atomically(path, text)


def place(image: str) -> tuple[str, str, str]:
    """An image's registry with its scheme, repository and tag, by docker's rules: python:3.11 is library/python of Docker
    Hub; a first part with a dot, a colon or the name localhost is a registry, which is asked in http on this machine."""
    name, _, tag = image.rpartition(":")
    first, _, rest = name.partition("/")
    if rest and ("." in first or ":" in first or first == "localhost"):
        local = first.split(":")[0] in ("localhost", "127.0.0.1")
        return f"{'http' if local else 'https'}://{first}", rest, tag
    return f"https://{HUB}", name if rest else f"library/{name}", tag


def digest_of(image: str) -> str:
    """The digest that an image's tag has today, from its registry, without an account.

    Raises:
        UserError: when the registry cannot be reached, does not know the image, or answers something else.
    """
    registry, repository, tag = place(image)
    url = f"{registry}/v2/{repository}/manifests/{tag}"
    try:
        headers = {"Accept": MANIFESTS}
        try:
            content, told = _get(url, headers)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            headers["Authorization"] = f"Bearer {_token(error.headers.get('WWW-Authenticate', ''))}"
            content, told = _get(url, headers)
    except urllib.error.HTTPError as error:
        raise UserError(f"{image}: {url} answers {error.code} {error.reason}; is the tag still there?") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{image}: {urllib.parse.urlsplit(registry).netloc} cannot be asked ({reason}); nothing was changed, check network "
            "and proxy (https_proxy)"
        ) from None
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if told is not None and told != digest:
        raise UserError(f"{image}: {url} names {told}, but what it sent is {digest}; nothing was changed")
    return digest


def _get(url: str, headers: dict[str, str]) -> tuple[bytes, str | None]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        return answer.read(), answer.headers.get("Docker-Content-Digest")


def _token(challenge: str) -> str:
    """The token for anybody that a registry's challenge (RFC 6750) sends one to."""
    parts = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.lower().startswith("bearer") or "realm" not in parts:
        raise ValueError(f"it wants {challenge or 'a password'}")
    query = urllib.parse.urlencode({key: value for key, value in parts.items() if key in ("service", "scope")})
    content, _ = _get(f"{parts['realm']}?{query}", {})
    answer = json.loads(content)
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str):
        raise ValueError("no token came")
    return token


def renew(docker: Path = DOCKER) -> None:
    """Look up every digest, then write lock file and Dockerfiles; where one cannot be had, nothing is changed.

    Raises:
        UserError: which and why.
    """
    lock = docker / LOCK.name
    before = read(lock)
    after = [replace(base, digest=digest_of(base.image)) for base in before]
    write({lock: written(after, lock), **dockerfiles(after, docker)})
    for old, new in zip(before, after, strict=True):
        print(f"{new.name}: {new.image} {'is unchanged' if old == new else f'was {old.digest or NOT_YET}, is'} {new.digest}")


def show(docker: Path = DOCKER) -> None:
    """A line for each base: by digest, or by its tag because no digest has been looked up."""
    for base in read(docker / LOCK.name):
        how = f"by digest {base.digest}" if base.digest else "by its tag: no digest yet, see docker/bases.py renew"
        print(f"{base.name}: {base.image}, {how}")


def main(argv: Sequence[str], docker: Path = DOCKER) -> int:
    """Do what the words say; returns 0, or 2 with one line of what is wrong."""
    try:
        match list(argv):
            case []:
                show(docker)
            case ["renew"]:
                renew(docker)
            case ["write"]:
                write(dockerfiles(read(docker / LOCK.name), docker))
            case ["image", name]:
                known = {base.name: base for base in read(docker / LOCK.name)}
                if name not in known:
                    raise UserError(f"image: {name!r} is no base; use {', '.join(known)}")
                print(known[name].reference)
            case ["--help" | "-h"]:
                print(__doc__)
            case words:
                raise UserError(f"bases: {' '.join(words)!r} is unknown; use renew, write, image NAME or nothing")
    except BenchmarkError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
