"""Grids of any content are read in bounds: what is wrong is told in lines, and nothing large is made for it."""

import os
import threading

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unet3d.commands.sweep import grid_file
from unet3d.config import parse
from unet3d.config.settings import BY_NAME
from unet3d.errors import UserError, messages_of

GIVEN = parse.parse([], {})[0]
BOMB = "- &a [none, trace]\n" + "".join(f"- &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(22))
NUMBERS = ", ".join(map(str, range(1, 1000)))
HOSTILE = {
    "bomb.yaml": (BOMB, "an anchor or alias"),
    "merge.yaml": ("- &x {jit: none}\n- {<<: *x}\n", "an anchor or alias"),
    "value.yaml": ("- {jit: &x none, seed: *x}\n", "an anchor or alias"),
    "product.yaml": (
        f"- {{seed: [{NUMBERS}], batch_size: [{NUMBERS}], streams: [{NUMBERS}]}}\n",
        "more than 1000 configurations",
    ),
    "sum.yaml": (f"- {{seed: [{NUMBERS}]}}\n- {{fold: [0, 1, 2, 3, 4]}}\n", "row 2: with it there are more than 1000"),
    "rows.csv": ("seed\n" + "1\n" * 100_000, "100000 rows, a grid has at most 1000"),
    "large.csv": ("seed\n" + "123456\n" * 100_000, "at most 262144 are allowed"),
    "rows.yaml": ("- {seed: 1}\n" * 20_000, "1001 or more rows, a grid has at most 1000"),
    "columns.csv": (",".join(f"c{i}" for i in range(30_000)) + "\n1\n", "30000 columns"),
    "columns.yaml": ("- {" + ", ".join(f"c{i}: 1" for i in range(20_000)) + "}", "columns"),
    "same.csv": ("a," * 100_000 + "\n1\n", "100001 columns"),
    "deep.yaml": ("[" * 100_000, "a list is where a row should be"),
    "deeper.yaml": ("- {jit: " + "[" * 100_000, "a list is not allowed in a list of values"),
    "braces.yaml": ("{" * 100_000, "rows are missing"),
    "twice.yaml": ("- {jit: none, JIT: trace}", "'JIT' is there twice"),
    "second.yaml": ("- {jit: none}\n---\n- {jit: trace}\n", "a second document begins in line 2"),
    "date.yaml": ("- {seed: 2020-13-45}", "seed '2020-13-45' is not allowed"),
    "digits.yaml": ("- {seed: " + "9" * 5000 + "}", "is not allowed; use a whole number"),
    "code.yaml": ("- {seed: !!python/object/apply:os.system [ls]}", "seed 'ls' is not allowed"),
    "cell.csv": ("seed\n" + "x" * 140_000, "not valid CSV"),
    "escape.csv": ("se\x1b[31med|<b>\n1\n", r"'se\x1b[31med|<b>' is not a setting"),
    "name.csv": ("name,jit\nx\x1b[31m,none\n", r"name 'x\x1b[31m' is not allowed"),
    "table.yaml": ("- {name: sweep.json, jit: none}", "name 'sweep.json' is not allowed"),
    "names.yaml": ("- {name: [a, b], jit: none}", "is not allowed; use letters"),
}


def lines_of(path):
    """What is told of a grid; none where it is read."""
    try:
        configurations = grid_file.read(path, GIVEN)
    except UserError as error:
        told = messages_of(error)
        assert 0 < len(told) <= 22 and all(line.isprintable() and len(line) < 500 for line in told)
        return told
    assert 0 < len(configurations) <= grid_file.MOST_CONFIGURATIONS
    assert len({configuration.name for configuration in configurations}) == len(configurations)
    for configuration in configurations:
        assert all(BY_NAME[name].parse(text) is not None for name, text in configuration.settings.items())
    return []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grids_are_one_line(name, tmp_path):
    text, told = HOSTILE[name]
    (tmp_path / name).write_text(text)
    [line] = lines_of(tmp_path / name)
    assert told in line


@pytest.mark.parametrize("ending", [".csv", ".yaml"])
def test_pipes_and_devices_are_refused_at_once(ending, tmp_path):
    os.mkfifo(tmp_path / f"fifo{ending}")
    (tmp_path / f"zero{ending}").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        told = []
        path = tmp_path / f"{name}{ending}"
        reading = threading.Thread(target=lambda path=path, told=told: told.extend(lines_of(path)), daemon=True)
        reading.start()
        reading.join(20)
        assert len(told) == 1, f"{name} is still being read"


def test_a_grid_of_the_most_rows_is_read(tmp_path):
    (tmp_path / "most.csv").write_text("name,seed\n" + "".join(f"n,{number}\n" for number in range(1000)))
    configurations = grid_file.read(tmp_path / "most.csv", GIVEN)
    assert len(configurations) == 1000 and configurations[1].name == "n-2" and configurations[-1].name == "n-1000"


def test_many_mistakes_are_counted_not_listed(tmp_path):
    (tmp_path / "bad.csv").write_text("seed\n" + "".join(f"x{number}\n" for number in range(500)))
    told = lines_of(tmp_path / "bad.csv")
    assert len(told) == grid_file.MOST_TOLD + 1 and told[-1].endswith("480 more such lines")


TEXTS = st.one_of(
    st.sampled_from(
        ["none", "trace", "1", "2", "64,64,64", "fp32", "yes", "", "~", "null", "jit", "seed", "name", "*a", "&a", "!!int"]
    ),
    st.text(max_size=6),
)
CELLS = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
ROWS = st.lists(st.dictionaries(st.one_of(st.sampled_from(sorted(BY_NAME)), TEXTS), CELLS, max_size=4), max_size=4)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_grid_is_read_or_told(data, tmp_path):
    kind = data.draw(st.sampled_from(["yaml", "csv", "bytes.yaml", "bytes.csv"]))
    path = tmp_path / f"grid.{kind}"
    if kind == "yaml":
        path.write_text(yaml.safe_dump(data.draw(ROWS), allow_unicode=False), encoding="utf-8")
    elif kind == "csv":
        table = data.draw(st.lists(st.lists(TEXTS, max_size=4), max_size=4))
        path.write_bytes("\n".join(",".join(row) for row in table).encode("utf-8", "replace"))
    else:
        path.write_bytes(
            data.draw(st.one_of(st.binary(max_size=60), st.text("-[]{}:,&*!|>'\"%@`# \n\tab1", max_size=60).map(str.encode)))
        )
    lines_of(path)
