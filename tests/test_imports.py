"""The folders' order is the direction of imports, no file is part of a ring, and every module has a user that is no test."""

from pathlib import Path

import import_floors
import pytest

ROOT = Path(__file__).parents[1]
USERS = [
    *ROOT.glob("*.py"),
    *ROOT.glob("*.sh"),
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("docker/**/*.sh"),
    *ROOT.glob("docker/**/*Dockerfile"),
]


@pytest.mark.parametrize("rule", ["homeless", "turned", "rings"])
def test_arrows_of_the_house(rule):
    problems = getattr(import_floors, rule)(ROOT / "unet3d")
    assert not problems, "\n" + "\n".join(problems)


def test_every_module_has_a_user_that_is_no_test():
    problems = import_floors.unused(ROOT / "unet3d", USERS)
    assert not problems, "\n" + "\n".join(problems)


@pytest.fixture
def house(tmp_path):
    """A made-up package that stands, and a function that writes one more of its files."""
    package = tmp_path / "house"

    def write(name, text=""):
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in path.relative_to(package).parents:
            (package / folder / "__init__.py").touch()
        return path

    write("__init__.py", "def __getattr__(name):\n    from house import api\n\n    return getattr(api, name)\n")
    write("api.py", "from house.measure import loop\n")
    write("cli.py", 'VERBS = {"check": "house.commands.check"}\nfrom house.measure import loop\n')
    write("commands/check.py", "from house.config import table\n")
    write("config/table.py", "from house import errors\n")
    write("measure/loop.py", "def timed():\n    from house.engines.base import Engine\n")
    write("engines/base.py", "import house.errors\n")
    write("errors.py")
    write.package = package
    return write


def test_a_house_that_stands_has_no_problems(house):
    assert import_floors.report(house.package) == []


@pytest.mark.parametrize(
    "text",
    [
        "from house.measure import loop",
        "import house.measure.loop",
        "from ..measure import loop",
        "from house.measure.loop import timed",
        "def late():\n    from house.measure import loop",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.measure import loop",
        'MODULE = "house.measure.loop"',
        'MODULES = {"loop": "house.measure.loop:timed"}',
    ],
)
def test_a_turned_arrow_is_named_with_its_file_line_and_floors(house, text):
    path = house("engines/late.py", text)
    house("engines/base.py", "import house.engines.late\n")
    line = text.count("\n") + 1
    [turned] = import_floors.turned(house.package)
    assert turned == (
        f"{path}:{line}: house.engines.late on the floor engines points up to house.measure.loop on the floor measure"
    )
    # The measurement imports the engines: the arrow closes a ring as well.
    [ring] = import_floors.rings(house.package)
    assert ring.startswith("3 files in a ring:")


def test_only_the_package_itself_points_up_and_only_to_its_api(house):
    house("__init__.py", "from house import api\nfrom house.measure import loop\n")
    [turned] = import_floors.turned(house.package)
    assert "__init__.py:2: house on the floor ground points up to house.measure.loop" in turned
    house("engines/base.py", "from house import api\n")
    assert len(import_floors.turned(house.package)) == 2


def test_a_ring_on_one_floor_is_found(house):
    house("config/kinds.py", "from house.config import table\n")
    house("config/table.py", "def late():\n    from house.config.kinds import Kind\n")
    assert import_floors.turned(house.package) == []
    [ring] = import_floors.rings(house.package)
    assert ring.startswith("2 files in a ring:")
    assert "table.py:2 house.config.table on the floor config -> house.config.kinds" in ring


def test_a_module_without_a_floor_or_a_user_is_found(house, tmp_path):
    house("attic/box.py")
    assert len(import_floors.homeless(house.package)) == 2
    unused = import_floors.unused(house.package, [])
    assert [line.split(": ")[1].split()[0] for line in unused] == ["house.attic", "house.attic.box"]
    script = tmp_path / "run.sh"
    script.write_text("python -m house.attic.box\n")
    assert import_floors.unused(house.package, [script]) == []
