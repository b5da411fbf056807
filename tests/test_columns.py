"""Tables that never wrap."""

import pytest

from unet3d import columns

HEAD = ["configuration", "img/s", "p50 ms", "p90 ms", "peak GiB"]
ROWS = [["openvino-bf16-none-streams-1-of-a-very-long-name", "0.1142", "8771", "8930", "12.41"], ["torch", "1", "2", "3", "4"]]


def test_a_table_with_room_is_whole_and_its_numbers_are_on_the_right():
    lines = columns.table(HEAD, ROWS)
    assert lines[1].split() == ROWS[0]
    assert len({len(line) for line in lines}) == 1
    assert lines[2].startswith("torch  ") and lines[2].endswith("   4")


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80])
def test_no_line_is_longer_than_the_width_and_what_is_left_out_is_named(width):
    lines = columns.table(HEAD, ROWS, width)
    assert max(map(len, lines)) <= width
    shown = " ".join(lines)
    for name in HEAD[1:]:
        assert name in shown
    assert ("No room for" in shown) == (width < 43)
    assert "0.1142" in shown or width == 20  # the first number is the last to go


def test_words_are_cut_before_numbers_are_left_out():
    lines = columns.table(HEAD, ROWS, 60)
    assert "No room" not in lines[-1]
    assert lines[1].startswith("openvino-bf16") and "…" in lines[1]


def test_prose_is_broken_between_words():
    text = "Set: OUTPUT_DIR=/a/path/that/is/longer/than/the/line NUM_ITERATIONS=3"
    assert " ".join(part.strip() for part in columns.paragraph(text, 30)) == text
    assert columns.paragraph(text, None) == [text]
