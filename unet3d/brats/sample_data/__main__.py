"""`python -m unet3d.brats.sample_data FOLDER`: makes the sample data set."""

import argparse
import sys

from unet3d import signals
from unet3d.brats import sample_data
from unet3d.errors import BenchmarkError, tell


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m unet3d.brats.sample_data", description=sample_data.DESCRIPTION)
    parser.add_argument("folder")
    parser.add_argument("--cases", type=int, default=sample_data.DEFAULT_CASES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=sample_data.DEFAULT_SEED, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=None, help="default: as cores and memory allow")
    options = parser.parse_args(argv)
    try:
        names = sample_data.make(options.folder, options.cases, options.seed, processes=options.processes)
    except BenchmarkError as error:
        return tell(error)
    print(f"{len(names)} sample cases are in {options.folder}")
    return 0


if __name__ == "__main__":
    signals.at_once()
    sys.exit(main())
