"""Settings from flags and variables: who wins, what is refused, and that one declaration is behind it all."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from unet3d.config import kinds, parse, table
from unet3d.config.settings import BY_NAME, SETTINGS
from unet3d.config.values import Asked, Settings
from unet3d.planning.refusals import impossible

ROOT = Path(__file__).parents[2]


def read(*words, **variables):
    given, problems = parse.parse(words, variables)
    return {name: item.value for name, item in given.items()}, problems + impossible(Asked.of(given))


def test_typed_settings_are_those_declared():
    names = {setting.name for setting in SETTINGS}
    assert {field.name for field in fields(Asked)} == names | {"sources"}
    assert {field.name for field in fields(Settings)} == names | {"sources", "reasons"}


def test_flag_wins_over_variable_wins_over_default():
    assert read()[0]["batch_size"] == 1
    assert read(BATCH_SIZE="3")[0]["batch_size"] == 3
    assert read("--batch-size", "4", BATCH_SIZE="3")[0]["batch_size"] == 4
    assert read("--batch-size=5", BATCH_SIZE="3")[0]["batch_size"] == 5


def test_values_are_not_case_sensitive():
    values, problems = read("--PLATFORM", "cpu", "--jit", "TRACE", DUMMY="YES", MULTI_TILE="false", PRECISION="BF16")
    assert not problems
    assert (values["platform"], values["jit"], values["dummy"], values["multi_tile"], values["precision"]) == (
        "CPU",
        "trace",
        True,
        False,
        "bf16",
    )


@pytest.mark.parametrize("words", [["--dummy"], ["--dummy", "yes"], ["--dummy=YES"], ["--dummy", "--jit", "none"]])
def test_dummy_alone_means_yes(words):
    values, problems = read(*words, DUMMY="no", DATASET_DIR="/")
    assert values["dummy"] is True
    assert not problems


def test_empty_variable_is_not_set():
    assert read(BATCH_SIZE="", PRECISION=" ")[0]["batch_size"] == 1


def test_the_archived_samples_commands_are_understood():
    values, problems = read(
        PLATFORM="Flex",
        OUTPUT_DIR="/tmp/output",
        DUMMY="yes",
        PRECISION="fp16",
        BATCH_SIZE="1",
        NUM_ITERATIONS="10",
        MULTI_TILE="False",
        IPEX="yes",
        AMP="yes",
        JIT="trace",
    )
    assert not problems
    assert values["platform"] == "Flex"
    assert values["output_dir"] == Path("/tmp/output")
    assert values["num_iterations"] == 10


def test_everything_wrong_is_told_at_once():
    _, problems = read("--precison", "fp16", "--batch-size", "0", "word", JIT="script", NUM_ITERATIONS="ten", FOLD="5")
    text = "\n".join(problems)
    assert len(problems) == 6
    assert "did you mean --precision?" in text
    assert "--batch-size: '0' is not allowed; use a whole number of at least 1" in text
    assert "JIT: 'script' is not allowed; use none, trace, compile" in text
    assert "FOLD: '5' is not allowed; use a whole number from 0 to 4" in text
    assert "'word'" in text


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"ENGINE": "onnxruntime", "PRECISION": "bf16"}, "use PRECISION=fp32 or ENGINE=openvino"),
        ({"ENGINE": "openvino", "JIT": "compile"}, "use JIT=none or ENGINE=torch"),
        ({"ENGINE": "onnxruntime", "IPEX": "yes"}, "use IPEX=no or ENGINE=torch"),
        ({"IPEX": "yes", "PLATFORM": "CUDA"}, "use IPEX=no"),
        ({"MULTI_TILE": "True", "PLATFORM": "Flex"}, "one tile"),
        ({"DUMMY": "no"}, "set DATASET_DIR"),
        ({"DUMMY": "no", "DATASET_DIR": "/no/such/folder"}, "/no/such/folder"),
        ({"DUMMY": "no", "DATASET_DIR": "/", "VOLUME_SHAPE": "64,64,64"}, "VOLUME_SHAPE"),
        ({"SAVE_SEGMENTATIONS": "yes"}, "DUMMY=no with DATASET_DIR"),
        ({"WEIGHTS": "/no/such.zip"}, "/no/such.zip"),
        ({"OUTPUT_DIR": __file__}, "is a file"),
    ],
)
def test_impossible_combinations_are_refused_with_a_remedy(variables, part):
    _, problems = read(**variables)
    assert len(problems) == 1
    assert part in problems[0]


@pytest.mark.parametrize("text", ["63,64,64", "64,64", "64,64,64,64", "0,32,32", "a,b,c", "64,64,2048"])
def test_shapes_that_five_poolings_cannot_halve(text):
    with pytest.raises(ValueError, match="three multiples of 32"):
        kinds.shape(text)


@pytest.mark.parametrize("name", table.DOCUMENTS)
def test_documents_hold_the_declared_tables(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert table.refresh(text, table.DOCUMENTS[name]()) == text, "run python -m unet3d.config.table"


def test_every_setting_is_in_the_documents_table_and_the_usual_ones_are_ten():
    rows = [line.split("|")[1:3] for line in table.complete().splitlines() if line.startswith("| `--")]
    declared = [(f"`{setting.flag}`", f"`{setting.variable}`") for setting in SETTINGS]
    assert sorted((flag.strip(), variable.strip()) for flag, variable in rows) == sorted(declared)
    assert len(set(table.USUAL)) == 10


def test_help_names_every_setting_with_values_and_default():
    text = " ".join(table.help_text("./run_model.sh").split())
    for setting in SETTINGS:
        assert f"{setting.flag}, {setting.variable}" in text
        assert setting.values in text
        assert setting.shown_default in text


def test_flags_and_variables_have_one_name():
    assert BY_NAME["num_iterations"].flag == "--num-iterations"
    assert BY_NAME["num_iterations"].variable == "NUM_ITERATIONS"


def test_bad_input_ends_with_2_and_no_traceback_before_torch_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    ended = subprocess.run(
        [sys.executable, ROOT / "predict.py", "--jit", "foo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "BATCH_SIZE": "-1"},
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        "ERROR: --jit: 'foo' is not allowed; use none, trace, compile",
        "ERROR: BATCH_SIZE: '-1' is not allowed; use a whole number of at least 1",
    ]
    assert not (tmp_path / "output").exists()
