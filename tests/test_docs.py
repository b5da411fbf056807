"""Documents, scripts and container files name modules, files and settings that are there."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import unet3d

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
SCRIPTS = [
    ROOT / ".ci" / "run",
    *ROOT.glob("*.sh"),
    *ROOT.glob("tests/**/*.sh"),
    *ROOT.glob("docker/**/*.sh"),
    *ROOT.glob("docker/**/*Dockerfile"),
]


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*DOCUMENTS, *SCRIPTS], ids=named)
def test_files_that_are_named_are_there(path):
    text = path.read_text(encoding="utf-8")
    # Not below /opt/unet3d, a container's; a name with <…> stands for many.
    names = re.findall(r"(?<![\w/.<-])((?:unet3d|tests|benchmarks|docs|docker|folds|samples)/[\w./-]*\w/?)(?![\w<*])", text)
    if path in DOCUMENTS:
        names += re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = {name for name in names if not (ROOT / name).exists() and not (path.parent / name).exists()}
    # In the wheel only.
    assert missing - {"unet3d/data/"} == set()


@pytest.mark.parametrize("path", [*DOCUMENTS, *SCRIPTS], ids=named)
def test_modules_that_are_started_or_imported_are_there(path):
    text = path.read_text(encoding="utf-8")
    modules = set(re.findall(r"-m (unet3d[\w.]*)", text))
    modules |= {f"{package}.{name}" for package, name in re.findall(r"from (unet3d[\w.]*) import (\w+)", text)}
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_picture_of_the_floors_is_of_today():
    path = ROOT / "docs" / "architecture_picture.py"
    spec = importlib.util.spec_from_file_location("architecture_picture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.picture(), f"run python {path.relative_to(ROOT)}"


def test_citation_is_of_this_version_and_names_what_is_measured():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["type"], citation["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert citation["version"] == unet3d.__version__
    assert [(work["authors"][0]["family-names"], work["year"]) for work in citation["references"]] == [
        ("Isensee", 2021),
        ("Menze", 2015),
        ("Bakas", 2017),
        ("Reddi", 2020),
    ]
