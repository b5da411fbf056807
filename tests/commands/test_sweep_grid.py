"""Grids: from files and for the machine; what is wrong is told in one line before anything runs."""

import re

import pytest

from unet3d.commands import sweep
from unet3d.commands.sweep import grid, grid_file
from unet3d.config import parse
from unet3d.errors import UserError, UserErrors, messages_of


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    from unet3d.config.settings import SETTINGS

    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    monkeypatch.setenv("PLATFORM", "CPU")


def given(*words):
    return parse.parse(words, {})[0]


def write(folder, text, name="grid.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_columns_are_settings_however_they_are_written(tmp_path):
    path = write(
        tmp_path, '\ufeff# note\nENGINE, --batch-size,volume-shape,name\nTorch, 2,"64,64,64",first\n\nopenvino,,64x64x32,\n'
    )
    first, second = grid_file.read(path, given())
    assert first.settings == {"engine": "torch", "batch_size": "2", "volume_shape": "64,64,64"}
    assert first.name == "first"
    assert second.settings == {"engine": "openvino", "volume_shape": "64,64,32"}
    assert second.name == "openvino-volume-shape-64-64-32"
    assert first.flags == ["--engine", "torch", "--batch-size", "2", "--volume-shape", "64,64,64"]


def test_yaml_lists_stand_for_a_row_with_each_value(tmp_path):
    path = write(tmp_path, "- {engine: torch, jit: [none, Compile], amp: no}\n- engine: openvino\n  streams: 2\n", "g.yml")
    assert [(configuration.name, dict(configuration.settings)) for configuration in grid_file.read(path, given())] == [
        ("torch-none-amp-no", {"engine": "torch", "jit": "none", "amp": "no"}),
        ("torch-compile-amp-no", {"engine": "torch", "jit": "compile", "amp": "no"}),
        ("openvino-streams-2", {"engine": "openvino", "streams": "2"}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("g.csv", "", "no configuration in it"),
        ("g.csv", "engine,jit\n", "no configuration in it"),
        ("g.yaml", "# nothing\n", "no configuration in it"),
        ("g.csv", "engin\ntorch\n", "g.csv row 1: 'engin' is not a setting; did you mean engine?"),
        ("g.csv", "colour\nred\n", "'colour' is not a setting; ./run_model.sh --help lists them"),
        ("g.csv", "engine\ntorch\ntensorrt\n", "g.csv row 2: engine 'tensorrt' is not allowed; use torch, openvino"),
        ("g.csv", "batch_size\n0\n", "row 1: batch_size '0' is not allowed; use a whole number of at least 1"),
        ("g.csv", "volume_shape\n64,64,64\n", "row 1: 3 cells under 1 columns; quote a value"),
        ("g.csv", "jit,JIT\nnone,none\n", "column 'jit' is there twice"),
        ("g.csv", "output_dir\n/tmp\n", "output_dir cannot be set in a grid"),
        ("g.csv", "name,jit\n../x,none\n", "name '../x' is not allowed"),
        ("g.csv", "jit\nnone\nNone\n", "g.csv row 2: the same settings as in g.csv row 1"),
        ("g.csv", "seed\n1\n", "seed is set here and by --seed"),
        (
            "g.csv",
            "engine,precision\ntorch,fp32\nonnxruntime,bf16\n",
            "g.csv row 2: PRECISION=bf16 with ENGINE=onnxruntime is not possible",
        ),
        ("g.yaml", "engine: torch\n", "rows are missing"),
        ("g.yaml", "- {engine: [torch\n", "not valid YAML in line 2"),
        ("g.yaml", "- {engine: {a: 1}}\n", "a mapping is not allowed as engine in line 1"),
        ("g.txt", "engine\n", "a grid is a .yaml, .yml or .csv file"),
    ],
)
def test_a_bad_grid_is_one_line_and_nothing_runs(tmp_path, monkeypatch, name, text, told):
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    path = write(tmp_path, text, name)
    with pytest.raises(UserError) as caught:
        sweep.main(["--grid", str(path), "--seed", "3"])
    assert len(messages_of(caught.value)) == 1
    assert "\n" not in messages_of(caught.value)[0]
    assert told in messages_of(caught.value)[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--grid"], "--grid: a value is missing"),
        (["--grid", "/no/such.csv"], "/no/such.csv: cannot be read"),
        (["--time-limit", "soon"], "--time-limit: 'soon' is not allowed"),
        (["--grid", "~nobody-of-this-name/x.csv"], "use a path whose ~ is a user"),
        (["--grid", "x\x1b[31m.csv"], r"x\x1b[31m.csv' is not allowed"),
        (["--prefix", "nice 'x"], "--prefix: 'nice 'x' is not allowed; use a command whose quotes are closed"),
        (["--prefix", "nice \\"], "--prefix: 'nice \\' is not allowed"),
        (["--gird", "x.csv"], "--gird: unknown flag"),
        (["--precision", "fp12"], "--precision: 'fp12' is not allowed"),
        (["--engine", "onnxruntime", "--precision", "bf16", "--list"], ""),
    ],
)
def test_bad_options_are_one_line(words, told, capsys):
    if not told:
        assert sweep.main(words) == 0
        assert "left out: onnxruntime-bf16-streams-1" in capsys.readouterr().out
        return
    with pytest.raises(UserError) as caught:
        sweep.main(words)
    assert [told in message for message in messages_of(caught.value)] == [True]


def test_nothing_that_can_run_is_an_error(tmp_path):
    with pytest.raises(UserErrors, match="nothing of the grid can run here: .*int8"):
        sweep.main(["--engine", "onnxruntime", "--precision", "int8", "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_wrong_setting_around_the_grid_is_told_once_without_a_row(tmp_path):
    path = write(tmp_path, "jit\nnone\ntrace\n")
    with pytest.raises(UserError) as caught:
        sweep.main(["--grid", str(path), "--dummy", "no"])
    assert len(messages_of(caught.value)) == 1
    assert messages_of(caught.value)[0].startswith("DUMMY=no needs volumes")


def test_on_a_gpu_the_grid_has_every_provider_of_onnx_runtime():
    given, _ = parse.parse([], {})
    names = {name: [found.name for found in grid.default(given, name, cores=2, numa_nodes=1)] for name in ("CUDA", "CPU")}
    assert [name for name in names["CUDA"] if name.startswith("onnxruntime") and name.endswith("fp16-streams-1")] == [
        "onnxruntime-cuda-fp16-streams-1",
        "onnxruntime-tensorrt-fp16-streams-1",
    ]
    assert "onnxruntime-fp32-streams-1" in names["CPU"]
    both = [*names["CUDA"], *names["CPU"]]
    assert not [name for name in both if "tensorrt" in name and not name.startswith("onnxruntime")]


def test_the_machines_grid_varies_what_is_left_open():
    names = {configuration.name for configuration in grid.default(given(), "CPU", cores=2, numa_nodes=1)}
    for engine, precision in (("torch", "fp32"), ("torch", "bf16"), ("openvino", "int8"), ("onnxruntime", "fp32")):
        for streams in (1, 2):
            assert any(name.startswith(f"{engine}-{precision}") and name.endswith(f"streams-{streams}") for name in names)
    assert {"torch-bf16-none-streams-1", "torch-bf16-trace-streams-1", "torch-bf16-compile-streams-1"} <= names
    fixed = grid.default(given("--engine", "torch", "--precision", "bf16", "--streams", "1"), "CPU", 2, 1)
    assert [dict(configuration.settings) for configuration in fixed] == [
        {"jit": "compile"},
        {"jit": "trace"},
        {"jit": "trace", "ipex": "yes"},
        {"jit": "none"},
    ]
    on_gpu = {configuration.name for configuration in grid.default(given(), "CUDA", 16, 1)}
    assert any("fp16" in name for name in on_gpu)


@pytest.mark.parametrize(("cores", "nodes", "counts"), [(1, 1, [1]), (2, 1, [1, 2]), (16, 1, [1, 4]), (64, 2, [1, 2, 16])])
def test_stream_counts_follow_the_machine(cores, nodes, counts):
    assert grid.stream_counts(cores, nodes) == counts


def test_every_configuration_that_is_left_out_has_a_reason(capsys):
    assert sweep.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("left out: onnxruntime-int8") and "int8 runs on ENGINE=openvino" in line for line in lines)
    assert any(
        re.fullmatch(
            r"torch-fp32-none-streams-1: about .+: \./run_model\.sh --platform CPU --precision fp32 --engine torch --jit none "
            "--streams 1",
            line,
        )
        for line in lines
    )
    told = next(line for line in lines if line.startswith("All "))
    assert re.fullmatch(r"All \d+ take about .*(s|min); \d+ of them are a guess from this machine's rates", told)
