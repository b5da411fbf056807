"""Feeds made-up and damaged files to every reader of the benchmark: each ends in success or in one line of a UserError.

    python -m tests.robustness.fuzz --examples 2000              # every reader
    python -m tests.robustness.fuzz --only nifti --seed 3

Exit code 1 where a reader failed; hypothesis then shows the smallest input that it found.
"""

import argparse
import gzip
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.robustness.harness import narrow_weights
from tests.robustness.hostile import cases
from unet3d import streams
from unet3d.errors import MESSAGE_LIMIT, UserError, messages_of, shown


@dataclass
class Reader:
    """A reader, `read(folder, content)`, the bytes that it is given, and what they are made from, which it has to take."""

    whole: Callable[[Path], bytes]
    content: Callable[[Path], st.SearchStrategy[bytes]]
    read: Callable[[Path, bytes], object]


def refused_or_read(work: Callable[[], object]) -> None:
    """What every reader owes: no error but a UserError, of one printable line each."""
    try:
        work()
    except UserError as error:
        for line in messages_of(error):
            assert line.strip() and "\n" not in line and "Traceback" not in line, line
            assert len(line) <= MESSAGE_LIMIT, f"a line of {len(line)} characters"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, head: int | None = None) -> bytes:
    """`whole` with bytes overwritten, cut out or put in; most of them within the first `head` bytes, where formats say what
    follows."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, max(0, min(len(content), head or len(content)) - 1)))
        piece = draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff"]))
        )
        how = draw(st.sampled_from(("over", "over", "over", "out", "in", "cut")))
        if how == "cut":
            del content[place:]
        elif how == "out":
            del content[place : place + len(piece)]
        else:
            content[place : place + (len(piece) if how == "over" else 0)] = piece
    return bytes(content)


SIMPLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\x1b[31m", "\ud800"]),
)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def changed_json(draw: st.DrawFn, document: dict) -> bytes:
    """A document in which values at random places have been put out, taken away or given another type."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        where = copy
        while isinstance(where, (dict, list)) and where:
            keys = sorted(where) if isinstance(where, dict) else range(len(where))
            key = draw(st.sampled_from(keys))
            if not isinstance(where[key], (dict, list)) or not where[key] or draw(st.booleans()):
                if draw(st.booleans()):
                    where[key] = draw(NESTED)
                else:
                    del where[key]
                break
            where = where[key]
    return json.dumps(copy).encode("utf-8", "surrogatepass")


def of_case(kind: str, folder: Path) -> bytes:
    """A file of a small case, which is made where it is not there."""
    case = folder / "HGG" / "A"
    if not case.is_dir():
        cases.make_case(folder)
    return cases.file_of(case, kind).read_bytes()


def nifti(kind: str, folder: Path) -> st.SearchStrategy[bytes]:
    return damaged(gzip.decompress(of_case(kind, folder)), head=352).map(lambda content: gzip.compress(content, 1))


def read_nifti(folder: Path, content: bytes) -> None:
    from unet3d.brats.dataset import find_cases
    from unet3d.brats.preprocessing.case import prepare

    cases.file_of(folder / "HGG" / "A", "t1").write_bytes(content)
    prepare(find_cases(folder)[0], cases.SHAPE)


def read_segmentation(folder: Path, content: bytes) -> None:
    from unet3d.brats import segmentations

    path = folder / "seg.nii.gz"
    path.write_bytes(content)
    segmentations.read(path)


def archive(folder: Path) -> bytes:
    return narrow_weights(folder, 4, 8).read_bytes()


def zips(folder: Path) -> st.SearchStrategy[bytes]:
    """The archive damaged anywhere, and archives whose pickles are damaged or of anything."""
    whole = archive(folder)
    members = {}
    with zipfile.ZipFile(io.BytesIO(whole)) as packed:
        members = {info.filename: packed.read(info) for info in packed.infolist() if not info.is_dir()}
    pickles = [name for name in members if name.endswith(".pkl")]

    def packed_with(name: str, content: bytes) -> bytes:
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w") as new:
            for member, own in members.items():
                new.writestr(member, content if member == name else own)
        return written.getvalue()

    inside = [damaged(members[name]).map(lambda content, name=name: packed_with(name, content)) for name in members]
    other = [NESTED.map(lambda value, name=name: packed_with(name, pickle.dumps(value))) for name in pickles]
    return st.one_of(damaged(whole), *inside, *other)


def read_weights(folder: Path, content: bytes) -> None:
    from unet3d.brats import weights

    path = folder / "fold_1.zip"
    path.write_bytes(content)
    weights.load(path)


def read_pickle(folder: Path, content: bytes) -> None:
    from unet3d.brats.weights import safe_pickle

    safe_pickle.loads(content, "plans.pkl")


def finished_run() -> dict:
    """The document of a made-up run that is complete, with every section."""
    sys.path.append(str(Path(__file__).parents[1]))
    import made_results

    return made_results.full()


def results(folder: Path) -> st.SearchStrategy[bytes]:
    document = finished_run()
    anything = NESTED.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    return st.one_of(changed_json(document), damaged(json.dumps(document).encode()), anything)


def read_results(folder: Path, content: bytes) -> None:
    from unet3d.results import report

    path = folder / "results.json"
    path.write_bytes(content)
    report.write(report.read(path), folder)


def read_compared(folder: Path, content: bytes) -> None:
    import contextlib

    from unet3d.commands import compare

    (folder / "results.json").write_bytes(content)
    good = folder / "good.json"
    if not good.exists():
        good.write_text(json.dumps(finished_run()))
    with contextlib.redirect_stdout(io.StringIO()):
        compare.main([str(good), str(folder / "results.json"), "--anyway"])


GRID = b"- {engine: torch, jit: [trace, compile]}\n- {precision: fp32, streams: [1, 2], name: a}\n"
TABLE = b"engine,jit,name\ntorch,trace,a\ntorch,,\n"


def grids(folder: Path) -> st.SearchStrategy[bytes]:
    import yaml

    rows = st.lists(
        st.dictionaries(st.sampled_from(["engine", "jit", "streams", "name", "precision", "x"]), NESTED, max_size=3)
    )
    return st.one_of(damaged(GRID), rows.map(lambda value: yaml.safe_dump(value).encode()), st.binary(max_size=60))


def read_grid(ending: str, folder: Path, content: bytes) -> None:
    from unet3d.commands.sweep import grid_file
    from unet3d.config import parse

    path = folder / f"grid.{ending}"
    path.write_bytes(content)
    grid_file.read(path, parse.parse([], {})[0])


PICKLE = pickle.dumps({"plans": [1, 2.0, "a"], 3: None})
READERS = {
    "nifti": Reader(partial(of_case, "t1"), partial(nifti, "t1"), read_nifti),
    "segmentation": Reader(partial(of_case, "seg"), partial(nifti, "seg"), read_segmentation),
    "weights": Reader(archive, zips, read_weights),
    "pickle": Reader(lambda folder: PICKLE, lambda folder: damaged(PICKLE), read_pickle),
    "results": Reader(lambda folder: json.dumps(finished_run()).encode(), results, read_results),
    "compare": Reader(lambda folder: json.dumps(finished_run()).encode(), results, read_compared),
    "grid": Reader(lambda folder: GRID, grids, partial(read_grid, "yaml")),
    "table": Reader(lambda folder: TABLE, lambda folder: st.one_of(damaged(TABLE), grids(folder)), partial(read_grid, "csv")),
}


def fuzz(name: str, examples: int, seed: int, folder: Path) -> list[BaseException]:
    """The different errors by which a reader failed, each of the smallest input found; empty where it held."""
    reader = READERS[name]

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(content=reader.content(folder))
    def tried(content: bytes) -> None:
        refused_or_read(lambda: reader.read(folder, content))

    try:
        tried()
    except BaseExceptionGroup as group:  # several kinds
        return list(group.exceptions)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - hypothesis raises what the reader has raised
        return [error]
    return []


def told(error: BaseException) -> str:
    """An error and the last line of ours that it went through, in one line."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "unet3d" in Path(frame.filename).parts]
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {shown(error)}{where}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=500, help="inputs for each reader (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(READERS))
    parser.add_argument("--show", action="store_true", help="show the whole traceback of what failed")
    given_words = parser.parse_args(argv)
    os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")
    streams.prepare()  # what libraries say of each input would hide what is found
    failed = 0
    for name in [given_words.only] if given_words.only else READERS:
        folder = Path(tempfile.mkdtemp(prefix="unet3d-fuzz-"))
        found = fuzz(name, given_words.examples, given_words.seed, folder)
        shutil.rmtree(folder, ignore_errors=True)
        failed += bool(found)
        print(f"{name}: {'NOT HELD' if found else 'held'}", flush=True)
        for error in found:
            print("".join(traceback.format_exception(error)) if given_words.show else f"  {told(error)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
