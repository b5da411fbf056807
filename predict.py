#!/usr/bin/env python3
"""Measure the network: see ./run_model.sh --help."""

import os
import sys

if __name__ == "__main__":
    try:
        # Python leaves the script's own folder out with -I, -P and PYTHONSAFEPATH.
        sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 - pathlib takes its time
        from unet3d.start import start

        sys.exit(start())
    except KeyboardInterrupt:
        sys.exit(130)
