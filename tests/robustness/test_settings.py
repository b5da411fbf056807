"""Whatever is typed: settings are accepted or refused in one line each with exit code 2, never a traceback."""

import contextlib
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unet3d import cli
from unet3d.commands import run as run_verb
from unet3d.config.settings import BY_NAME, SETTINGS

WORDS = [
    "",
    " ",
    "0",
    "-1",
    "1e3",
    "1.5",
    "٣",
    "999999999999999999999",
    "NaN",
    "yes",
    "no",
    "maybe",
    "None",
    "null",
    "all",
    "true",
    "fp32",
    "FP16",
    "int4",
    "cpu",
    "tpu",
    "script",
    "trace",
    "64,64,64",
    "64x64x64",
    "63,64,64",
    "1,2",
    ",,,",
    "--",
    "-",
    "=",
    "--jit",
    "../..",
    "~",
    "~nobody_here/x",
    "/dev/null",
    "/dev/null/x",
    "/proc/nowhere",
    "a" * 300,
    "/" + "b/" * 3000,
    "é\u202e",
    "\udcff",
    "$(reboot)",
    "'; rm -rf /",
    "%s%n",
    "\n",
    "a\nb",
    "\x1b[31m",
    "Offline",
]
FLAGS = [setting.flag for setting in SETTINGS]
FREE = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=30)
VALUES = st.one_of(st.sampled_from(WORDS), FREE, st.integers().map(str))
ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(FLAGS),
        VALUES,
        st.tuples(st.sampled_from(FLAGS), VALUES).map("=".join),
        st.text(string.ascii_lowercase, min_size=1, max_size=12).map("--".__add__),
    ),
    max_size=6,
)
VARIABLES = st.dictionaries(st.sampled_from([setting.variable for setting in SETTINGS]), VALUES, max_size=4)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would have run; nothing is run. Relative folders land in a temporary one."""
    runs = []
    monkeypatch.setattr(run_verb, "carry_out", lambda plan, argv, lock: runs.append(plan) or 0)
    monkeypatch.setattr(run_verb, "prepare_folder", lambda folder, variable: None)
    monkeypatch.setattr(run_verb, "FolderLock", lambda folder, variable: contextlib.nullcontext())
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    return runs


def one_line_each(code, captured, started):
    """The only ways to end before anything runs: accepted (0) or refused (2)."""
    assert "Traceback" not in captured.err and "ERROR: unexpected " not in captured.err
    if code == 0:
        assert not captured.err
    else:
        assert code == 2 and captured.out == "" and not started
        lines = captured.err.split("\n")
        assert lines.pop() == "" and lines
        for line in lines:
            # argparse, which the verbs read their words with, shows the usage before its one line.
            assert line.startswith(("ERROR: ", "usage: ", "  ")) or " error: " in line
            assert len(line) < 10_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(argv=ARGUMENTS, variables=VARIABLES)
def test_any_words_and_variables(argv, variables, capsys, started, monkeypatch):
    del started[:]
    if any(word.removeprefix("--") in (*cli.VERBS, *cli.HIDDEN, "version") for word in argv[:1]):
        argv = ["--dummy", *argv]
    with monkeypatch.context() as changed:
        for name, value in variables.items():
            changed.setenv(name, value)
        code = cli.main(argv)
    captured = capsys.readouterr()
    if code == 0 and ("--help" in argv or "-h" in argv):
        return
    one_line_each(code, captured, started)
    for plan in started:
        for name, value in plan.settings.values().items():
            if value is not None and BY_NAME[name].values.count(",") and isinstance(value, str):
                assert value in BY_NAME[name].values or name in ("weights", "num_images", "rdzv_endpoint")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["output_dir", "dataset_dir", "weights", "volume_shape", "batch_size", "precision"])
def test_each_odd_word_for_each_kind_of_setting(name, word, capsys, started):
    code = cli.main([f"{BY_NAME[name].flag}={word}", "--platform", "CPU"])
    one_line_each(code, capsys.readouterr(), started)
    for plan in started:
        assert plan.settings.value(name) == BY_NAME[name].parse(word)


@pytest.mark.parametrize("folder", ["~nobody_here/x", "/proc/nowhere", "/dev/null/x", "a" * 300, "/" + "b/" * 3000, "\udcff/x"])
@pytest.mark.parametrize("name", ["dataset_dir", "preprocessed_dir"])
def test_preprocessing_of_odd_folders(name, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = {"dataset_dir": str(tmp_path), name: folder}
    code = cli.preprocess([f"{BY_NAME[key].flag}={value}" for key, value in arguments.items()])
    one_line_each(code, capsys.readouterr(), [])


@pytest.mark.parametrize("verb", sorted({**cli.VERBS, **cli.HIDDEN}))
@pytest.mark.parametrize(
    "words", [["/no/such/folder"], ["--no-such-flag"], ["a" * 300, "b" * 300], ["/dev/null", "/proc"], [""]]
)
def test_verbs_given_nonsense(verb, words, capsys, monkeypatch, tmp_path):
    if verb == "check":
        pytest.skip("its own tests give it nonsense")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path))
    code = cli.main([f"--{verb}", *words])
    one_line_each(code, capsys.readouterr(), [])
