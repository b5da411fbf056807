"""`python -m unet3d`: the same verbs as ./run_model.sh."""

import sys

if __name__ == "__main__":
    try:
        from unet3d.start import start

        sys.exit(start())
    except KeyboardInterrupt:
        sys.exit(130)
