#!/usr/bin/env python3
"""Preprocess a data set ahead of a run: see ./preprocess.sh --help."""

import sys

from unet3d.cli import preprocess

if __name__ == "__main__":
    sys.exit(preprocess())
