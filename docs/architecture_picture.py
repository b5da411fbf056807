"""Draws docs/images/architecture.svg from the floors that tests/test_imports.py holds:  python docs/architecture_picture.py

The right column says which step of a run lives on a floor.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
TARGET = DOCS / "images" / "architecture.svg"
sys.path.insert(0, str(DOCS.parent / "tests"))

from import_floors import FLOORS  # noqa: E402 - found by the path set above

# Floor to what it is, and the step of a run that it carries.
WORDS = {
    "cli": ("start, command line, api for Python", "argv → verb → exit code;  unet3d.run(…) → Result"),
    "commands": ("one file or folder per verb", "run: lock, log, the steps below, verdict;  compare: results → table"),
    "measure": ("prepare, time, compare, score", "load_engine → Checked, warm_up → Warm, measure → samples, Dice"),
    "ranks": ("several processes and machines", "launch, spool, pool: only with more than one process"),
    "planning": ("what runs, where, and what cannot", "make(ask(argv, environ)) → Plan, or all problems at once"),
    "results": ("record, statistics, reader, report", "document(record) → results.yaml, results.json;  read → the same"),
    "engines": ("PyTorch, OpenVINO, ONNX Runtime", "load, stage, compile, infer, labels"),
    "brats": ("data set, volumes, weights, Dice", "files → store → volumes;  labels → Dice"),
    "network": ("3D U-Net in every form, kernels", "logits of a volume"),
    "devices": ("CPU, CUDA, XPU: one protocol", "pin, upload, synchronize; sensors, ceilings"),
    "config": ("settings and precisions: tables", "argv, environ → typed settings"),
    "ground": ("errors, signals, files, locks, progress", "facts and helpers that all floors share"),
}
WIDTH, ROW, GAP, TOP, LEFT = 1120, 46, 8, 74, 76
STEP_AT = 540


def text(x: int, y: int, words: str, size: int = 15, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" {more}>{escape(words)}</text>'


def picture() -> str:
    """The SVG: a box a floor, top floor first, and one arrow that says where imports may point."""
    if list(WORDS) != list(FLOORS):
        raise SystemExit(f"the picture knows {list(WORDS)}, the house has {list(FLOORS)}: change WORDS")
    height = TOP + len(FLOORS) * (ROW + GAP) + 16
    bottom = height - 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" fill="#1f2933">',
        "<title>The floors of unet3d: imports point down</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        text(LEFT + 16, 36, "Floor", 16, 'font-weight="bold"'),
        text(LEFT + 150, 36, "What it is", 16, 'font-weight="bold"'),
        text(STEP_AT + 16, 36, "What it does in a run", 16, 'font-weight="bold"'),
        text(LEFT + 16, 58, "unet3d/…", 12, 'fill="#5f6c7b"'),
        f'<path d="M38 {TOP} V{bottom - 12}" stroke="#2f6f9f" stroke-width="4"/>',
        f'<path d="M28 {bottom - 14} L38 {bottom + 2} L48 {bottom - 14} Z" fill="#2f6f9f"/>',
        text(0, 0, "imports point down", 14, f'fill="#2f6f9f" transform="translate(24 {TOP + 400}) rotate(-90)"'),
    ]
    for number, floor in enumerate(FLOORS):
        y = TOP + number * (ROW + GAP)
        what, step = WORDS[floor]
        middle = y + ROW // 2 + 5
        parts += [
            f'<rect x="{LEFT}" y="{y}" width="{STEP_AT - LEFT - 12}" height="{ROW}" rx="5" fill="#e6f0f7" stroke="#2f6f9f"/>',
            f'<rect x="{STEP_AT}" y="{y}" width="{WIDTH - STEP_AT - 24}" height="{ROW}" rx="5" fill="#fbf4e4" '
            'stroke="#b98a2e"/>',
            text(LEFT + 16, middle, floor, 15, 'font-weight="bold"'),
            text(LEFT + 150, middle, what, 14),
            text(STEP_AT + 16, middle, step, 14),
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8")
    print(TARGET)
