"""Faults by class: what is done to a process, and what of it is not as docs/faults.md promises (an empty list: it held).

`FIXED` are tried once each, `RANDOM` as often as one likes, with moments from a seeded generator.
"""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.processes import ROOT, Ended, in_shell, predict, signalled, start, variables

Fixed = Callable[["Place"], list[str]]


@dataclass
class Place:
    """A folder of its own for one case, and narrow weights."""

    folder: Path
    weights: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def run(self, command: list[str], how: dict | None = None, **more: str | None) -> Ended:
        return start(command, self.output, variables(self.output, self.weights, **more), **(how or {})).ended()


@dataclass
class Fault:
    """One case; `whole` where it is a run with volumes, not only a start."""

    group: str
    name: str
    tried: Fixed
    whole: bool = False


FIXED: list[Fault] = []
REFUSED = ("--platform", "CUDA")  # imports PyTorch, then is refused on a machine without
SHELL = str(ROOT / "run_model.sh")


def add(group: str, name: str, tried: Fixed, whole: bool = False) -> None:
    FIXED.append(Fault(group, name, tried, whole))


def redirected(redirection: str, words: list[str], *codes: int, **checks) -> Fixed:
    script = f'exec "$@" {redirection}'
    return lambda place: place.run(in_shell(script, *predict(*words)), CUDA_VISIBLE_DEVICES="").expect(*codes, **checks).faults


for _name, _redirection in {
    "closed output": ">&-",
    "closed errors": "2>&-",
    "closed input": "<&-",
    "all closed": "<&- >&- 2>&-",
    "full errors": "2>/dev/full",
}.items():
    add("streams", f"{_name}, help", redirected(_redirection, ["--help"], 0))
    add("streams", f"{_name}, bad setting", redirected(_redirection, ["--nope"], 2))
    add("streams", f"{_name}, bad report", redirected(_redirection, ["report", "/nowhere"], 2))
for _words in (
    ["--help"],
    ["--version"],
    ["report", "--help"],
    ["sweep", "--help"],
    ["compare", "--help"],
    ["check", "--help"],
):
    _told = {"said": "standard output cannot be written", "err_lines": 1}
    add("streams", f"full output, {' '.join(_words)}", redirected(">/dev/full", _words, 2, **_told))


def reader_gone(*words: str) -> Fixed:
    def tried(place: Place) -> list[str]:
        read, write = os.pipe()
        os.close(read)
        try:
            return place.run(predict(*words), {"stdout": write}).expect(141, err_lines=0).faults
        finally:
            os.close(write)

    return tried


for _words in (["--help"], ["--version"], ["report", "--help"], ["sweep", "--help"]):
    add("streams", f"reader gone, {' '.join(_words)}", reader_gone(*_words))


def whole_run(redirection: str, *codes: int, complete: bool = True, **checks) -> Fixed:
    def tried(place: Place) -> list[str]:
        ended = place.run(in_shell(f'exec "$@" {redirection}', *predict())).expect(*codes, **checks)
        return (ended.complete() if complete else ended).faults

    return tried


add("streams", "closed output, run", whole_run(">&-", 0), whole=True)
add("streams", "closed errors, run", whole_run("2>&-", 0), whole=True)
add("streams", "all closed, run", whole_run("<&- >&- 2>&-", 0), whole=True)
add("streams", "full errors, run", whole_run("2>/dev/full", 0), whole=True)
add("streams", "full output, run", whole_run(">/dev/full", 0, said="WARNING[console]", err_lines=1), whole=True)
add("streams", "reader gone, run", reader_gone(), whole=True)


def encoded(**more: str) -> Fixed:
    return lambda place: place.run(predict("--help"), **more).expect(0, err_lines=0).faults


for _encoding in ("ascii", "latin-1", "cp1252", "ascii:strict", "utf-8:strict", "utf-16", "koi8-r"):
    add("encodings", f"PYTHONIOENCODING={_encoding}", encoded(PYTHONIOENCODING=_encoding))
for _locale in ("C", "POSIX", "en_US.ISO-8859-1", "nonsense"):
    add("encodings", f"LC_ALL={_locale}", encoded(LC_ALL=_locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"))
add(
    "encodings",
    "PYTHONIOENCODING=ascii, run",
    lambda place: place.run(predict(), PYTHONIOENCODING="ascii").expect(0).complete().faults,
    whole=True,
)


def surrounded(
    *codes: int, said: str | None = None, before: str = "", flags: tuple[str, ...] = (), **more: str | None
) -> Fixed:
    def tried(place: Place) -> list[str]:
        command = [sys.executable, *flags, *predict(*REFUSED)[1:]]
        ended = place.run(in_shell(f'{before} exec "$@"', *command), CUDA_VISIBLE_DEVICES="", **more)
        return ended.expect(*codes, said=said).faults

    return tried


NOWHERE = "/proc/nowhere"
for _name, _fault in {
    "PYTHONSAFEPATH=1": surrounded(2, said="CUDA", PYTHONSAFEPATH="1"),
    "python -I": surrounded(2, said="CUDA", flags=("-I",)),
    "python -P": surrounded(2, said="CUDA", flags=("-P",)),
    "python -E -s": surrounded(2, said="CUDA", flags=("-E", "-s")),
    "python -OO": surrounded(2, said="CUDA", flags=("-OO",)),
    "python -W error": surrounded(2, said="CUDA", flags=("-W", "error")),
    "python -u": surrounded(2, said="CUDA", flags=("-u",)),
    "PYTHONOPTIMIZE=2": surrounded(2, said="CUDA", PYTHONOPTIMIZE="2"),
    "PYTHONWARNINGS=error": surrounded(2, said="CUDA", PYTHONWARNINGS="error"),
    "PYTHONDEVMODE=1": surrounded(2, said="CUDA", PYTHONDEVMODE="1"),
    "TORCH_LOGS of junk": surrounded(2, said="TORCH_LOGS", TORCH_LOGS="junk,\x1b[31m"),
    "TORCH_LOGS=+all": surrounded(2, said="CUDA", TORCH_LOGS="+all"),
    "TORCHINDUCTOR_COMPILE_THREADS of junk": surrounded(2, TORCHINDUCTOR_COMPILE_THREADS="junk"),
    "OMP_NUM_THREADS of junk": surrounded(2, said="CUDA", OMP_NUM_THREADS="junk"),
    "ATEN_CPU_CAPABILITY of junk": surrounded(2, said="CUDA", ATEN_CPU_CAPABILITY="junk"),
    "no HOME": surrounded(2, said="CUDA", HOME=None),
    "HOME nowhere": surrounded(2, said="CUDA", HOME=NOWHERE),
    "XDG_CACHE_HOME nowhere": surrounded(2, said="CUDA", XDG_CACHE_HOME=NOWHERE),
    "XDG_CACHE_HOME a file": surrounded(2, said="CUDA", XDG_CACHE_HOME=__file__),
    "XDG_CACHE_HOME below a file": surrounded(2, said="CUDA", XDG_CACHE_HOME=f"{__file__}/x"),
    "TMPDIR nowhere": surrounded(2, said="CUDA", TMPDIR=NOWHERE),
    "PATH empty": surrounded(2, said="CUDA", before="PATH=;"),
    "no environment but its settings": surrounded(2, said="CUDA", before="unset HOME PATH LANG USER LOGNAME SHELL TERM;"),
    "TZ of junk": surrounded(2, said="CUDA", TZ="junk/../junk"),
    "umask 0777": surrounded(2, said="umask", before="umask 0777;"),
    "umask 0700": surrounded(2, said="umask", before="umask 0700;"),
    "ulimit -n 10": surrounded(2, said="ulimit -n", before="ulimit -n 10;"),
    "ulimit -n 60": surrounded(2, said="ulimit -n", before="ulimit -n 60;"),
    "ulimit -Sn 60": surrounded(2, said="CUDA", before="ulimit -Sn 60;"),
    "ulimit -n 200": surrounded(2, said="CUDA", before="ulimit -n 200;"),
    "ulimit -f 0": surrounded(2, before="ulimit -f 0;"),
    "deleted working folder": surrounded(2, said="working folder", before='cd "$(mktemp -d)"; rmdir "$PWD";'),
}.items():
    add("surroundings", _name, _fault)
for _name, _more in {
    "PYTHONWARNINGS=error, run": {"PYTHONWARNINGS": "error"},
    "PYTHONOPTIMIZE=2, run": {"PYTHONOPTIMIZE": "2"},
    "PYTHONSAFEPATH=1, run": {"PYTHONSAFEPATH": "1"},
    "no HOME, run": {"HOME": None},
    "HOME and XDG_CACHE_HOME nowhere, run": {"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE},
    "TMPDIR nowhere, run": {"TMPDIR": NOWHERE},
    "XDG_CACHE_HOME a file, run": {"XDG_CACHE_HOME": __file__},
}.items():
    add("surroundings", _name, lambda place, more=_more: place.run(predict(), **more).expect(0).complete().faults, whole=True)


def through_link(place: Place) -> list[str]:
    link = place.folder / "a link"
    link.symlink_to(SHELL)
    return place.run([str(link), "--version"], {"cwd": place.folder}, CDPATH=f"{place.folder}:.").expect(0, err_lines=0).faults


add("entries", "run_model.sh through a link", through_link)
for _script in ("run_model.sh", "preprocess.sh", "setup.sh"):
    add(
        "entries",
        f"{_script} from elsewhere",
        lambda place, script=_script: (
            place.run(in_shell('ln -s "$1" "$2" && cd / && "$2" --help', str(ROOT / script), str(place.folder / "x")))
            .expect(0, err_lines=0)
            .faults
        ),
    )
for _name, _words in {"no name": ("--sample-data", ""), "an escape": ("\x1b[31m" * 1000,)}.items():
    add(
        "entries",
        f"setup.sh with {_name}",
        lambda place, words=_words: place.run([str(ROOT / "setup.sh"), *words]).expect(2, err_lines=1).faults,
    )
add("entries", "python -m unet3d", lambda place: place.run([sys.executable, "-m", "unet3d", "--version"]).expect(0).faults)


def echoed(*words: str, **more: str) -> Fixed:
    return lambda place: place.run(predict(*words), **more).expect(2).faults


HOSTILE = ("\x1b[2J\x1b[31mred", "a\nERROR: forged", "\r\x07", "\u202egnp.exe", "x" * 100_000, "\u2028", "a\tb")
for _value in HOSTILE:
    for _word in ("--weights", "--output-dir", "--dataset-dir", "--precision", "--volume-shape", "--rdzv-endpoint", "--x"):
        add("messages", f"{_word} {_value[:12]!r}", echoed(f"{_word}={_value}"))
    for _verb in ("report", "compare", "sweep", "preprocess", "check"):
        add("messages", f"{_verb} {_value[:12]!r}", echoed(_verb, f"--nope{_value}"))
for _endpoint in ("é:29501", "a..b:29501", "256.256.256.256:29501", f"{'a' * 300}:29501", "[::1:29501"):
    add(
        "messages",
        f"RDZV_ENDPOINT={_endpoint[:20]}",
        lambda place, endpoint=_endpoint: (
            place.run(predict(), NNODES="2", NODE_RANK="0", RDZV_ENDPOINT=endpoint).expect(2, err_lines=1).faults
        ),
        whole=True,
    )
add(
    "messages",
    "RDZV_ENDPOINT where nobody is",
    lambda place: (
        place.run(predict(), NNODES="2", NODE_RANK="1", RDZV_ENDPOINT="127.0.0.1:9", RANK_TIMEOUT="3")
        .expect(2, err_lines=1)
        .faults
    ),
    whole=True,
)
MOST = 2 * (os.cpu_count() or 1)
for _name, _setting in {
    "THREADS beyond twice": {"THREADS": str(MOST + 1)},
    "THREADS of a million": {"THREADS": "1000000"},
    "STREAMS of a million": {"STREAMS": "1000000"},
}.items():
    add("threads", _name, lambda place, setting=_setting: place.run(predict(), **setting).expect(2, said="use 1 to").faults)


def damaged_library(damage: Callable[[Path], object]) -> Fixed:
    """The compiled operators of a cache of its own, damaged; they cannot be compiled anew, so that this takes no minute."""

    def tried(place: Place) -> list[str]:
        from unet3d.network.cpu_ops import build

        kind, library = build.status()
        if kind != "native":
            return []
        cache = place.folder / "cache"
        copied = cache / "unet3d" / Path(library).parent.name / Path(library).name
        copied.parent.mkdir(parents=True)
        shutil.copyfile(library, copied)
        damage(copied)
        ended = place.run(predict(), NETWORK="fast", XDG_CACHE_HOME=str(cache), CXX="false")
        return ended.expect(0).complete().faults

    return tried


for _name, _damage in {
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "foreign": lambda path: shutil.copyfile(sys.executable, path),
    "text": lambda path: path.write_text("no library"),
}.items():
    add("cache", f"library {_name}", damaged_library(_damage), whole=True)


def earlier_results(place: Place) -> list[str]:
    names = ["results.json", "traceback.log", "profile.json"]
    for folder in ("segmentations", "loadgen"):
        (place.output / folder).mkdir(parents=True)
        (place.output / folder / "kept").write_text("kept")
    for name in names:
        (place.output / name).write_text('{"complete": false, "samples": {"latency_ms": []}}')
    ended = place.run(predict()).expect(0).complete()
    for pattern in ("segmentations.*/kept", "loadgen.*/kept", "results.*.json", "traceback.*.log", "profile.*.json"):
        if len(list(place.output.glob(pattern))) != 1:
            ended.faults.append(f"{pattern} is not kept")
    return ended.faults


def stale_lock(place: Place) -> list[str]:
    place.output.mkdir()
    (place.output / ".lock").write_text("process 1 on nowhere\n")
    return place.run(predict()).expect(0).complete().faults


add("folders", "everything of an earlier run is kept", earlier_results, whole=True)
add("folders", "lock of a dead process", stale_lock, whole=True)


def raced(place: Place, chance: random.Random) -> list[str]:
    """Two runs in one folder: one is refused, or they follow each other; nothing complete is lost."""
    environ = variables(place.output, place.weights)
    first = start(predict(), place.output, environ)
    with_pause = in_shell(f'sleep {chance.uniform(0, 3):.2f}; exec "$@"', *predict())
    second = start(with_pause, place.output, environ)
    ends = sorted((first.ended(), second.ended()), key=lambda ended: ended.code or 0)
    ends[0].expect(0, err_lines=0)
    if ends[1].code == 2:
        ends[1].expect(2, said="is in use by another run", err_lines=1)
        kept = 1
    else:
        ends[1].expect(0, err_lines=0)
        kept = 2
    faults = ends[0].complete().faults + ends[1].faults
    there = [
        path for path in place.output.glob("results*.json") if Ended(0, "", "", place.output).document(path).get("complete")
    ]
    return faults if len(there) == kept else [*faults, f"{len(there)} complete results of {kept}"]


def killed(place: Place, chance: random.Random) -> list[str]:
    """Killed at any moment: what is there is whole, and the next run takes the folder."""
    running = start(predict(), place.output, variables(place.output, place.weights, NUM_ITERATIONS="50"))
    delay(running.process, chance.uniform(0, 8))
    signalled(running, signal.SIGKILL)
    running.ended()
    before = [path.read_bytes() for path in place.output.glob("results*.json")]
    ended = place.run(predict()).expect(0).complete()
    after = [path.read_bytes() for path in place.output.glob("results*.json")]
    return ended.faults + ["earlier results are lost"] * (not set(before) <= set(after))


def stopped(place: Place, chance: random.Random) -> list[str]:
    """A signal at any moment, half of them in the first half of a second, to the process or to its group."""
    number = chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    command = chance.choice(([SHELL], predict(), [sys.executable, "-m", "unet3d"]))
    moment = chance.uniform(0, 0.5) if chance.random() < 0.5 else chance.uniform(0.5, 8)
    running = start(command, place.output, variables(place.output, place.weights, NUM_ITERATIONS="20"))
    delay(running.process, moment)
    signalled(running, number, group=chance.random() < 0.7)
    ended = running.ended()
    if command != [SHELL] and ended.code in (1, 130) and 'File "<frozen' in ended.err and str(ROOT) not in ended.err:
        return []  # the interpreter's own start, before it reads a line of ours
    return ended.expect(0, 128 + number).faults


def delay(process, seconds: float) -> None:
    """Wait so long, or until the process has ended."""
    import subprocess

    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


RANDOM: dict[str, Callable[[Place, random.Random], list[str]]] = {
    "races in one folder": raced,
    "kill -9": killed,
    "signals": stopped,
}
