"""The verb `report`: command lines and paths of any kind."""

import pytest

from unet3d import cli


@pytest.mark.parametrize(
    "words",
    [[], ["a", "b"], ["--no-such-option"], ["--no\n\x1b[31m"], ["--help=1"]],
)
def test_bad_command_lines_are_one_line(words, capsys):
    assert cli.main(["report", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR: report: ") and len(captured.err.splitlines()) == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    "name", ["x" * 5000, "/" + "b/" * 3000, "\0", "a\nb\x1b[31m", "\udcff", "é\u202e", "", "/dev/null", "/proc"]
)
def test_paths_of_any_kind_are_one_line(name, capsys):
    assert cli.main(["report", name]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ERROR: ") and captured.err[:-1].isprintable()
    assert captured.out == ""


def test_help_of_the_verb(capsys):
    assert cli.main(["report", "--help"]) == 0
    assert "OUTPUT_DIR of a run" in capsys.readouterr().out
