"""Documented commands: all of them parse and name what is there; those marked to be run are run, on small volumes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import commands
import documents
import pytest
import yaml
from documents import OUTPUT, ROOT, RUN, Block
from made_results import results

from unet3d import caches
from unet3d.commands import verdict
from unet3d.commands.compare.runs import Side
from unet3d.commands.sweep import grid_file
from unet3d.config import parse

SHELL = documents.every("bash", "console")
# What makes a run short; a command's own settings win.
QUICK = {"PLATFORM": "CPU", "VOLUME_SHAPE": "64,64,64", "WEIGHTS": "sample", "WARM_UP": "0", "NUM_ITERATIONS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout to run in, whose outputs are not this one's, and a cache with the operators that are there already."""
    folder, cache = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("cache") / "unet3d"
    for path in ROOT.iterdir():
        if not path.name.startswith("output") and path.name not in ("build", "weights", "sample_data"):
            (folder / path.name).symlink_to(path)
    cache.mkdir()
    for path in caches.folder().glob("fused-*"):
        (cache / path.name).symlink_to(path)
    return folder, cache


def run(script, place, folder=None, interpreter=("bash", "-euo", "pipefail", "-c")):
    checkout, cache = place
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "TRITON", "TORCHIND"))}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    return subprocess.run(
        [*interpreter, script],
        cwd=folder or checkout,
        env={**clean, **QUICK, "PATH": path, "XDG_CACHE_HOME": str(cache.parent)},
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_parse_and_name_what_is_there(block):
    parsed = subprocess.run(["bash", "-n"], input=block.script, capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    assert block.script.strip(), f"{block}: a console without a prompt"
    problems = commands.wrong(block)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("./run_modell.sh", "run_modell.sh is not there"),
        ("PRECISON=fp16 ./run_model.sh", "PRECISON is no setting"),
        ("docker run -e PRECISION=fp12 unet3d:cpu", "PRECISION=fp12: use fp32"),
        ('docker run unet3d:cpu /bin/bash -c "./run_model.sh --jit script"', "'script' is not allowed"),
        ("cd x && ./run_model.sh --batchsize 2", "did you mean --batch-size?"),
        ("./run_model.sh compare a b --mardown", "compare has no --mardown"),
        ("./run_model.sh --sweep --gird my.csv", "sweep has no --gird"),
        ("./run_model.sh chekc", "chekc"),
        ("./setup.sh --samples", "./setup.sh knows no --samples"),
        ("python benchmarks/gpu.py --batch 1", "benchmarks/gpu.py has no --batch"),
        ("pip install -r requirements-openvio.txt", "requirements-openvio.txt is not there"),
        ("docker build -f docker/cpu/Dockerfile .", "docker/cpu/Dockerfile is not there"),
    ],
)
def test_a_wrong_command_is_found(text, part):
    assert [line for line in commands.wrong(Block(ROOT / "README.md", 1, "bash", text, "")) if part in line]


def test_the_grid_of_the_documents_can_be_read(tmp_path):
    [block] = [block for block in documents.every("yaml") if "engine:" in block.text]
    path = tmp_path / "grid.yaml"
    path.write_text(block.text)
    assert len(grid_file.read(path, parse.parse([], {})[0])) == sum(
        max((len(value) for value in row.values() if isinstance(value, list)), default=1)
        * (2 if isinstance(row.get("precision"), list) else 1)
        for row in yaml.safe_load(block.text)
    )


@pytest.mark.parametrize("block", [block for block in SHELL if block.mark == RUN], ids=str)
def test_commands_that_are_marked_run(block, place):
    ended = run(block.script, place)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr
    shown = next((after for after in documents.every("text") if after.path == block.path and after.mark == OUTPUT), None)
    if shown is not None:
        printed = [masked(line) for line in ended.stdout.splitlines()]
        for line in shown.text.splitlines():
            wanted = re.escape(masked(line)).replace("…", ".*")
            assert any(re.fullmatch(wanted, text) for text in printed), f"{line}\nis not among\n{ended.stdout}"


def masked(line):
    """A line with one word for every number, and for what a machine decides; of a verdict what every run can say."""
    line = re.sub(r"(?<![\w-])(fp32|bf16|fp16|random|sample|mlperf-unverified|mlperf)\b", "W", line)
    line = re.sub(r"torch [\d.]+[\w.+]*", "torch V", line)
    line = numbers_masked(line).replace("N calls", "N call")
    return re.sub(r"( N)(?: ± N| \(N to N\))?( volumes/s).*", r"\1\2", line)


def numbers_masked(line):
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "N", line)


def test_the_readme_shows_a_verdict_as_runs_end_with():
    """Its interval, the machine's ceiling and the last run are beyond the one call of a small volume that is run here."""
    ceilings = {"device": "cpu", "precision": "bf16", "threads": 4, "copy_gbs": 40.0, "matmul_how": "matrix product"}
    known = set()
    for latencies in ([100.0], [100.0 + 2 * (call % 3) for call in range(12)], [100.0, 400.0] * 6):
        for rate in (None, 1.0, 1e4):
            hardware = [{"products": "fp32", "tflops": rate or 1.0, "how": "a loop"}]
            by_type = {"matmul_tflops": 1.0, "hardware": hardware, "executed_tflop": {"fp32": 0.5}}
            doc = results(latencies, ceilings={**ceilings, "matmul_tflops": rate})
            known |= {numbers_masked(part) for part in verdict.verdict(doc, None).split(", ")}
            doc = results(latencies, ceilings={**ceilings, **by_type})
            for scale in (1, 3):
                last = Side("last", [results([scale * latency for latency in latencies])])
                known |= {numbers_masked(part) for part in verdict.verdict(doc, last).split(", ")}
    [output] = [block for block in documents.every("text") if block.path == ROOT / "README.md" and block.mark == OUTPUT]
    [shown] = [line for line in output.text.splitlines() if "volumes/s" in line]
    parts = numbers_masked(shown.removeprefix("INFO[1/1]: ")).split(", ")
    assert set(parts) <= known, f"{parts} are not all among {known}"


@pytest.mark.parametrize("block", [block for block in SHELL if block.kind == "console"], ids=str)
def test_consoles_show_what_is_printed(block, place):
    ended = run(block.script, place)
    assert ended.returncode == 0, ended.stderr
    shown = [line for line in block.text.splitlines() if not line.startswith("$ ")]
    assert ended.stdout.splitlines() == shown


@pytest.mark.parametrize("block", documents.every("python"), ids=str)
def test_python_runs(block, place):
    ended = run(block.text, place, interpreter=(sys.executable, "-c"))
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\d", ended.stdout)
