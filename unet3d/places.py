"""Where the benchmark's own files are, in a checkout and as an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# The checkout; of an installed package the folder that holds it.
ROOT = PACKAGE.parent
PREDICT = ROOT / "predict.py"
# Both, since site-packages may hold a predict.py of somebody else's.
CHECKOUT = PREDICT.is_file() and (ROOT / "folds").is_dir()


def _shipped(name: str) -> Path:
    return (ROOT if CHECKOUT else PACKAGE / "data") / name


FOLDS = _shipped("folds")
SAMPLE_WEIGHTS = _shipped("samples") / "fold_1.zip"
# Of machines measured so far.
REFERENCE_RESULTS = ROOT / "benchmarks" / "results" if CHECKOUT else PACKAGE / "data" / "reference_results"
# What setup.sh puts in place; the working folder's where there is no checkout.
FETCHED_WEIGHTS = (ROOT if CHECKOUT else Path()) / "weights" / "fold_1.zip"
SAMPLE_DATA = (ROOT if CHECKOUT else Path()) / "sample_data"


def command() -> list[str]:
    """The words that start this benchmark in a process of its own, with this interpreter."""
    return [sys.executable, *([str(PREDICT)] if CHECKOUT else ["-m", "unet3d"])]
