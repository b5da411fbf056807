"""Fetch MLPerf's weights from Zenodo: resumed where a connection was cut, checked, and used again when already there."""

import hashlib
import http.client
import os
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack
from urllib.parse import urlsplit

from unet3d.brats.weights import OFFICIAL_URL
from unet3d.brats.weights.unpack import ORIGIN, file_sha256, open_archive, read_json, record_path, unpack, write_json
from unet3d.errors import UserError, shown
from unet3d.files import move_into_place

ARCHIVE = "fold_1.zip"
UNPACKED = "fold_1"
_CONNECT_SECONDS = 6.0
_ATTEMPTS = 5
_PIECE = 2**18
_MAX_BYTES = 2 * 2**30
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)


class Unreachable(UserError):
    """The host does not answer, or not with the file: nothing is wrong with what is here."""


class _Cut(Exception):
    """A transfer that may be taken up again."""


def _url() -> str:
    url = os.environ.get("WEIGHTS_URL", "").strip() or OFFICIAL_URL
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port that is no number
        usable = False
    if not usable:
        raise UserError(f"WEIGHTS_URL is '{shown(url)}', allowed is an http:// or https:// address of a fold_1.zip.")
    return url


def _open(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """urlopen that gives up in time: looking a name up knows no timeout of its own, so it is left behind in a thread."""
    responses: list[http.client.HTTPResponse] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            responses.append(urllib.request.urlopen(request, timeout=seconds))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    if errors:
        raise errors[0]
    if not responses:
        raise TimeoutError("no answer in time")
    return responses[0]


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return shown(" ".join(str(getattr(reason, "strerror", None) or reason).split())) or type(reason).__name__


def _md5(headers: http.client.HTTPMessage) -> str | None:
    """The MD5 that Zenodo states for a file, as the ETag "md5:…"."""
    stated = re.fullmatch(r'"?md5:([0-9a-f]{32})"?', headers.get("ETag", "").strip())
    return stated[1] if stated else None


def _transfer(url: str, part: Path, seconds: float, progress: bool) -> str | None:
    """One connection's worth of the file, appended to `part`. Returns the MD5 stated by the server, if any.

    Raises _Cut when the connection ended early, Unreachable when there is no sense in asking again.
    """
    from tqdm import tqdm

    state_path = part.with_name(part.name + ".json")
    state = read_json(state_path) or {}
    have = part.stat().st_size if part.exists() else 0
    if have and (state.get("url") != url or not state.get("etag")):
        have = 0  # what is there cannot be shown to be of the same file
    headers = {"User-Agent": "unet3d", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state["etag"]}
    try:
        response = _open(urllib.request.Request(url, headers=headers), seconds)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise _Cut("the part kept from before does not fit") from None
        if error.code in _MAY_PASS:
            raise _Cut(f"HTTP {error.code}") from None
        raise Unreachable(f"HTTP {error.code} {shown(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: names that cannot be looked up
        raise (_Cut if have else Unreachable)(_why(error)) from None
    with response:
        resumed = response.status == 206
        if resumed:
            start = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not start or int(start[1]) != have:
                part.unlink(missing_ok=True)
                raise _Cut("the server sent another range than asked for")
            total: int | None = int(start[2])
        else:
            have, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        _room(part, total, have)
        etag = response.headers.get("ETag", "")
        write_json(state_path, {"url": url, "etag": "" if etag.startswith("W/") else etag})
        with (
            open(part, "r+b" if resumed else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=ARCHIVE, disable=not progress) as bar,
        ):
            file.seek(have)
            try:
                while piece := response.read(_PIECE):
                    file.write(piece)
                    bar.update(len(piece))
                    have += len(piece)
                    if have > _MAX_BYTES:
                        raise UserError(f"{url}: sends more than {_MAX_BYTES} bytes; it is no model archive.")
            except (http.client.HTTPException, TimeoutError, ConnectionError) as error:
                raise _Cut(_why(error)) from None
        if total is not None and have < total:
            raise _Cut(f"connection closed after {have} of {total} bytes")
        return _md5(response.headers)


def _room(part: Path, total: int | None, have: int) -> None:
    if total is not None and total > _MAX_BYTES:
        raise UserError(f"{ARCHIVE}: the server announces {total} bytes, at most {_MAX_BYTES} are allowed; check WEIGHTS_URL.")
    free = shutil.disk_usage(part.parent).free
    needed = 2 * (total or 0) - have  # the archive and what it unpacks to, which is hardly larger
    if free < needed:
        raise UserError(f"{part.parent}: {free >> 20} MiB free, {needed >> 20} MiB needed for the weights; make room.")


def _download(url: str, part: Path, seconds: float, attempts: int, pause: float, progress: bool) -> str | None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _transfer(url, part, seconds, progress)
        except _Cut as cut:
            gained = (part.stat().st_size if part.exists() else 0) > before
            failures = 1 if gained else failures + 1
            if failures >= attempts:
                raise Unreachable(f"{cut}, given up after {attempts} attempts") from None
            time.sleep(pause * 2 ** (failures - 1))


def fetch(
    folder: str | Path,
    *,
    seconds: float = _CONNECT_SECONDS,
    attempts: int = _ATTEMPTS,
    pause: float = 1.0,
    progress: bool | None = None,
) -> Path:
    """The archive `folder`/fold_1.zip, fetched unless it is there already, and its record fold_1.zip.json beside it.

    The address is $WEIGHTS_URL or that of Zenodo. A part left by an earlier call is continued where the server can tell
    that it is of the same file. `attempts` are those in a row that bring nothing, with a pause that doubles. What
    arrives must have its announced length, the MD5 that the server states, the SHA-256 in $WEIGHTS_SHA256 if set and
    the one recorded earlier, and be an intact archive.
    Raises Unreachable (a UserError) when the host cannot be reached, UserError for everything else.
    """
    url, folder = _url(), Path(folder)
    archive = folder / ARCHIVE
    part = folder / (ARCHIVE + ".part")
    record = read_json(record_path(archive)) or {}
    pinned = os.environ.get("WEIGHTS_SHA256", "").strip().lower()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if archive.exists() and record.get("sha256"):
            _compare(archive, file_sha256(archive), record["sha256"], "recorded when it was fetched")
            _compare(archive, record["sha256"], pinned, "in WEIGHTS_SHA256")
            return archive
        md5 = _download(url, part, seconds, attempts, pause, sys.stderr.isatty() if progress is None else progress)
        digest = file_sha256(part)
        try:
            with open(part, "rb") as file:
                _compare(
                    part,
                    hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest(),
                    md5,
                    "that the server states",
                )
            _compare(part, digest, pinned, "in WEIGHTS_SHA256")
            if record.get("url") == url:
                _compare(part, digest, record.get("sha256"), f"recorded in {record_path(archive)}")
            _check_archive(part)
        except UserError:
            part.unlink()
            raise
        size = part.stat().st_size
        write_json(
            record_path(archive),
            {"url": url, "sha256": digest, "bytes": size, "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
        )
        move_into_place(part, archive)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the weights cannot be stored there ({error.strerror or error}); make room or choose another folder."
        ) from None
    return archive


def _compare(path: Path, actual: str, expected: str | None, whence: str) -> None:
    if expected and actual != expected:
        raise UserError(
            f"{path}: checksum {actual} differs from {expected} {whence}; delete {path.name} and its .json "
            "and fetch again, or check WEIGHTS_URL."
        )


def _check_archive(path: Path) -> None:
    with open_archive(path) as (archive, _):
        if damaged := archive.testzip():
            raise UserError(f"{path}: its member {damaged} is damaged; fetch it again.")


class Options(TypedDict, total=False):
    """How `fetch` deals with the network; see there."""

    seconds: float
    attempts: int
    pause: float
    progress: bool | None


def fetch_and_unpack(folder: str | Path, **options: Unpack[Options]) -> Path:
    """Fetch the archive and unpack it to `folder`/fold_1 unless that is done; returns the unpacked folder.

    Options and errors are those of `fetch`, and those of `unpack.unpack`.
    """
    archive = fetch(folder, **options)
    record = read_json(record_path(archive)) or {}
    unpacked = archive.parent / UNPACKED
    if (read_json(unpacked / ORIGIN) or {}).get("sha256") != record["sha256"]:
        unpack(archive, unpacked, {"url": record["url"], "sha256": record["sha256"]})
    return unpacked


def fetch_or_explain(folder: str | Path, say: Callable[[str], None] = print, **options: Unpack[Options]) -> Path | None:
    """`fetch_and_unpack`, or one line through `say` and None when the host cannot be reached.

    Raises UserError when what arrived is wrong: an unsafe archive or a checksum that differs is no matter of the network.
    """
    try:
        return fetch_and_unpack(folder, **options)
    except Unreachable as error:
        say(
            f"Weights: {shown(_url())} cannot be reached ({error}); going on with random weights of the same architecture. "
            "Set WEIGHTS_URL to a mirror, or WEIGHTS to a fold_1.zip."
        )
        return None
