"""A little of the fuzzing of readers, the same inputs every time. More of it: python -m tests.robustness.fuzz."""

import pytest

from tests.robustness.fuzz import READERS, fuzz, refused_or_read, told
from unet3d.errors import UserError

# What reports and comparisons make of results is theirs to check; here they are tried by the command alone.
QUICK = [name for name in READERS if name not in ("results", "compare")]


@pytest.mark.parametrize("name", QUICK)
def test_a_reader_takes_or_refuses_whatever_it_is_given(name, tmp_path):
    assert [told(error) for error in fuzz(name, 15, 0, tmp_path)] == []


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_damaged_is_read(name, tmp_path):
    """Otherwise everything that is made from it would be refused, whatever a reader does."""
    reader = READERS[name]
    reader.read(tmp_path, reader.whole(tmp_path))


@pytest.mark.parametrize("text", ["two\nlines", "", "Traceback (most recent call last)", "x" * 5000])
def test_a_refusal_that_is_no_line_is_a_failure(text):
    def refuse():
        raise UserError(text)

    with pytest.raises(AssertionError):
        refused_or_read(refuse)


def test_any_other_error_is_a_failure():
    with pytest.raises(KeyError):
        refused_or_read(lambda: {}["absent"])
