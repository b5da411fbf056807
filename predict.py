#!/usr/bin/env python3
"""Measure the network: see ./run_model.sh --help."""

import sys

from unet3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
