"""pyproject.toml says what is needed; the requirements files pin one version of each, and nothing is imported undeclared."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# In no image that the tests run in; known without asking their metadata.
DISTRIBUTION_OF = {"pynvml": "nvidia-ml-py", "mlperf_loadgen": "mlcommons-loadgen", "tensorrt": "tensorrt-cu13"}
# Not to be had with the others: requirements-ipex.txt is an environment of its own.
APART = {"intel-extension-for-pytorch"}


def needed(requirements):
    """Name to range; `unet3d[extra]` stands for what that extra needs."""
    ranges = {}
    for requirement in map(Requirement, requirements):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                ranges |= needed(EXTRAS[extra])
        else:
            ranges[canonicalize_name(requirement.name)] = requirement.specifier
    return ranges


def pinned(name, included=True):
    """Name to version of a requirements file and of those that it includes."""
    pins = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            pins |= pinned(text.removeprefix("-r ")) if included else {}
        elif text:
            requirement = Requirement(text)
            [specifier] = requirement.specifier
            assert specifier.operator == "==", f"{name}: {text} is no exact pin"
            pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


@pytest.mark.parametrize("extra", [None, *EXTRAS])
def test_requirements_file_pins_what_the_project_needs(extra):
    ranges = needed(PROJECT["dependencies"] if extra is None else EXTRAS[extra])
    pins = pinned("requirements.txt" if extra is None else f"requirements-{extra}.txt")
    assert sorted(pins) == sorted(ranges)
    outside = {name: version for name, version in pins.items() if version not in ranges[name]}
    assert not outside, f"pyproject.toml wants { ({name: str(ranges[name]) for name in outside}) }, pinned is {outside}"


def test_every_requirements_file_belongs_to_an_extra():
    files = {path.name for path in ROOT.glob("requirements*.txt")}
    whole = {"requirements.txt", "requirements-ipex.txt", "requirements-common.txt"}
    assert files == {*whole, *(f"requirements-{extra}.txt" for extra in EXTRAS)}


def test_ipex_environment_differs_by_what_ipex_forces_alone():
    common, ipex = pinned("requirements-common.txt"), pinned("requirements-ipex.txt")
    assert pinned("requirements.txt").items() - common.items() == {("torch", "2.13.0")}
    # An IPEX release is built for the torch of its own number.
    forced = dict(ipex.items() - common.items())
    assert set(forced) == {"torch", "intel-extension-for-pytorch"} and len(set(forced.values())) == 1
    assert not common.items() - ipex.items()
    assert ipex["torch"] in needed(PROJECT["dependencies"])["torch"]


def test_range_of_torch_is_the_one_that_setup_and_every_run_check():
    from unet3d import installed

    first, end = (".".join(map(str, version)) for version in installed.TORCH)
    assert needed(PROJECT["dependencies"])["torch"] == SpecifierSet(f">={first},<{end}")


def test_packages_that_a_run_does_without_are_pinned_ones():
    from unet3d import installed

    assert {canonicalize_name(name) for name in installed.SPARED} <= pinned("requirements-common.txt").keys()


def imported(folder):
    """Top-level name to one place of each library that is imported in a folder, also inside functions."""
    places = {}
    ours = [path.stem for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*")]
    own = {"unet3d", "benchmarks", "tests", *ours}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names | own:
                    places.setdefault(top, f"{path.relative_to(ROOT)}:{node.lineno}")
    return places


@pytest.mark.parametrize(("folder", "extras"), [("unet3d", EXTRAS.keys() - {"test"}), ("tests", EXTRAS), ("benchmarks", [])])
def test_everything_imported_is_declared(folder, extras):
    declared = needed([*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])])
    owners = importlib.metadata.packages_distributions()
    undeclared = []
    for top, place in imported(folder).items():
        names = [DISTRIBUTION_OF[top]] if top in DISTRIBUTION_OF else owners.get(top, [top.replace("_", "-")])
        names = {canonicalize_name(name) for name in names}
        # Triton comes with the PyTorch of the devices that it is for.
        if not names & (declared.keys() | APART) and top != "triton":
            undeclared.append(f"{place} imports {top} of {', '.join(sorted(names))}, which pyproject.toml does not declare")
    assert not undeclared, "\n" + "\n".join(undeclared)


def test_images_name_requirements_files_that_are_there():
    text = "".join(
        path.read_text(encoding="utf-8") for path in [*ROOT.glob("docker/**/*Dockerfile"), *ROOT.glob("docker/**/*.sh")]
    )
    names = set(re.findall(r"requirements[\w-]*\.txt", text))
    assert names
    assert [name for name in names if not (ROOT / name).is_file()] == []
