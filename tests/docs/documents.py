"""The documents and what is in them: prose, fenced blocks, commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
RUN, OUTPUT = "run", "output"


@dataclass(frozen=True)
class Block:
    """A fenced block. mark: the comment on the line before it."""

    path: Path
    line: int
    kind: str
    text: str
    mark: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """Its commands; of a console those after the prompt."""
        if self.kind != "console":
            return self.text
        return "".join(f"{line[2:]}\n" for line in self.text.splitlines() if line.startswith("$ "))


def blocks(path: Path, *kinds: str) -> list[Block]:
    """The fenced blocks of a document, of these kinds."""
    text = path.read_text(encoding="utf-8")
    found = [
        Block(path, text[: match.start()].count("\n") + 1, match["kind"], match["text"], match["mark"] or "")
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if block.kind in kinds]


def every(*kinds: str) -> list[Block]:
    """The fenced blocks of these kinds in all documents."""
    return [block for path in DOCUMENTS for block in blocks(path, *kinds)]


def sentences(path: Path) -> list[str]:
    """The sentences of a document's paragraphs, list items and table cells."""
    text = FENCE.sub("\n", path.read_text(encoding="utf-8"))
    text = re.sub(r"<!--.*?-->", "\n", text, flags=re.DOTALL)
    # An image or a link counts as the words that a reader sees.
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |\|))", text):
        plain = " ".join(paragraph.split()).lstrip("#-* ")
        parts += [cell for cell in plain.split("|") if cell.strip()] if plain.startswith("|") else [plain]
    # A stop inside a name or a number, such as results.json or 2.13, ends no sentence.
    return [sentence.strip() for part in parts for sentence in re.split(r"(?<=[.!?])(?:\*\*)?\s+", part) if sentence.strip()]
