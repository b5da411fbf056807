"""`python -m unet3d.brats.weights FOLDER` puts MLPerf's weights into FOLDER, or says in one line that it cannot."""

import argparse
import sys

from unet3d import signals
from unet3d.brats.weights.fetch import fetch_or_explain
from unet3d.errors import BenchmarkError, tell


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 also when the host cannot be reached: random weights serve until it can."""
    parser = argparse.ArgumentParser(prog="python -m unet3d.brats.weights", description=__doc__)
    parser.add_argument("folder", help="where fold_1.zip and its unpacked folder fold_1 go, e.g. weights")
    try:
        folder = fetch_or_explain(parser.parse_args(arguments).folder)
    except BenchmarkError as error:
        return tell(error)
    if folder:
        print(f"Weights: {folder}")
    return 0


if __name__ == "__main__":
    signals.at_once()
    sys.exit(main())
