"""Documents are read by people whose language this is not: short sentences, one form for rates, a README of few lines."""

import documents
import pytest
from documents import DOCUMENTS, ROOT

LONGEST_SENTENCE = 30
UNITS = r"(?:J|joules?|seconds?|s|ms|FLOP|TFLOP|MiB|GiB|GB|bytes|volumes?|times|img)"


def named(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_sentences_are_short(path):
    long = [text for text in documents.sentences(path) if len(text.split()) > LONGEST_SENTENCE]
    assert not long, "\n".join(f"{len(text.split())} words: {text}" for text in long)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_rates_are_per_something(path):
    found = documents.re.findall(rf"[^\n]*\b{UNITS} an? (?:volume|voxel|case|call|second|layer|run)\b", path.read_text())
    assert not found


def test_sentences_are_told_apart(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(
        "# A head\n\nOne [two](a.md) `x.py`. Three\nfour 2.13 five?\n\n- six\n- seven\n\n| a | b c |\n| --- | --- |\n\n"
        "```bash\nnot this\n```\n"
    )
    words = [sentence for sentence in documents.sentences(path) if "--" not in sentence]
    assert words == ["A head", "One two `x.py`.", "Three four 2.13 five?", "six", "seven", "a", "b c"]


def test_readme_has_a_figure_on_its_first_screen_and_few_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    begin = next(number for number, line in enumerate(lines) if line.startswith("<!-- headline:"))
    end = lines.index("<!-- end of headline -->")
    assert any(cell.strip().replace(".", "").isdigit() for line in lines[begin:end] for cell in line.split("|"))
    assert end < 25
