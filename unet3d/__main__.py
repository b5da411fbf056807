"""`python -m unet3d`: the same verbs as ./run_model.sh."""

import sys

from unet3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
