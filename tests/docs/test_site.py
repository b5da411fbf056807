"""The site: it builds without a warning, so that no link is dead, and no page, setting or verb is missing."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from documents import DOCUMENTS, ROOT

from unet3d import caches, cli, errors

pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install -r requirements-test.txt")


def build(folder, site):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--config-file",
            folder / "mkdocs.yml",
            "--site-dir",
            site,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_site_builds_strictly_with_every_document(tmp_path):
    ended = build(ROOT, tmp_path)
    assert ended.returncode == 0, ended.stderr
    pages = {path.stem for path in tmp_path.glob("*.html")} - {"404"}
    assert pages == {{"README": "index"}.get(path.stem, path.stem.lower()) for path in DOCUMENTS}
    index = (tmp_path / "index.html").read_text()
    assert 'href="contributing.html"' in index and 'href="settings.html"' in index
    assert 'src="images/report.webp"' in index and (tmp_path / "images" / "report.webp").is_file()
    assert (tmp_path / "files" / "LICENSE").is_file()


@pytest.fixture
def copy(tmp_path):
    """What the site is made from, to be broken."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.md"), *ROOT.glob("mkdocs.yml"), ROOT / "LICENSE", ROOT / "CITATION.cff"]:
        shutil.copy(path, folder)
    (folder / "folds").mkdir()
    shutil.copy(ROOT / "folds" / "fold1_validation.txt", folder / "folds")
    return folder


@pytest.mark.parametrize(
    ("page", "text", "told"),
    [
        ("README.md", "[a](docs/absent.md)", "absent.md"),
        ("docs/cache.md", "[a](settings.md#absent-heading)", "absent-heading"),
        ("docs/cache.md", "[a](../folds/absent.txt)", "folds/absent.txt"),
        ("CONTRIBUTING.md", "[a](docs/cache.md#absent-heading)", "absent-heading"),
        ("docs/forgotten.md", "# A page that no menu has", "forgotten.md"),
    ],
)
def test_a_dead_link_or_a_page_without_a_place_ends_the_build(copy, tmp_path, page, text, told):
    with open(copy / page, "a") as file:
        file.write(f"\n{text}\n")
    ended = build(copy, tmp_path / "site")
    assert ended.returncode != 0
    assert told in ended.stderr


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_names_every_verb():
    table = {words.split()[1] for words in re.findall(r"^\| `([^`]*)` \|", read("README.md"), re.MULTILINE) if " " in words}
    assert table == {*cli.VERBS, "--help"}
    assert "--version" in read("README.md")


def test_exit_codes_are_those_of_the_program():
    [table] = re.findall(r"## Exit codes\n\n(.*?)\n\n", read("docs/troubleshooting.md"), re.DOTALL)
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(",")}
    assert codes == {int(code) for code in errors.ExitCode}


def test_kinds_of_the_cache_are_all_told():
    rows = re.findall(r"^\| (`.*?) \|", read("docs/cache.md"), re.MULTILINE)
    assert {kind for row in rows for kind in re.findall(r"`([\w-]+)`", row)} == set(caches.KINDS)


def test_keys_of_results_are_all_told():
    from unet3d.results import schema

    text = read("docs/results.md")
    section = text[text.index("## results.json") : text.index("## The report")]
    told = {key for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert told == set(schema.Results.__annotations__)


def test_variables_that_are_read_are_told():
    """A variable is a setting, is in the table of others, or is torchrun's or ours to the libraries."""
    reading = r"""environ(?:\.get\(|\[)\s*"([A-Z][A-Z0-9_]+)"(?!\] =)"""
    read_there = {name for path in (ROOT / "unet3d").rglob("*.py") for name in re.findall(reading, path.read_text())}
    torchruns = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
    torchruns |= {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    [table] = re.findall(r"## Other variables\n(.*)", read("docs/settings.md"), re.DOTALL)
    assert "UNET3D_KERNELS" in read_there
    assert read_there - torchruns - set(re.findall(r"`([A-Z0-9_]+)`", table)) == set()


def test_warnings_are_all_told():
    names = set()
    for path in (ROOT / "unet3d").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("RunWarning", "Known"):
                names |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
            # (name, text) of what an engine or the planning has to say.
            if isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
                first = node.elts[0].value
                if isinstance(first, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", first):
                    names.add(first)
    text = read("docs/troubleshooting.md")
    assert {"few-samples", "fallback-operators", "ipex-missing"} <= names
    assert {name for name in names if f"`{name}`" not in text} - {"rev-parse"} == set()
