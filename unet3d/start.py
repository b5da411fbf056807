"""Where a process begins: `predict.py`, `python -m unet3d` and the installed command call `start`."""

import os
import re
import sys


def start(verb: str = "main") -> int:
    """Do what the command line says; returns the exit code.

    verb: the function of `unet3d.cli`. Ctrl-C is answered from the first line on, also while the imports go on.
    """
    try:
        if sys.version_info < (3, 11):  # noqa: UP036 - told in one line, where an older one would fail at some import
            print("ERROR: Python 3.11 or newer is needed, this is " + sys.version.split()[0], file=sys.stderr)
            return 2
        from unet3d import signals, streams

        if sys.flags.optimize > 1:
            _again_with_docstrings()
        signals.at_once()
        signals.end_with_caller()
        streams.prepare()
        from unet3d import cli

        code = int(getattr(cli, verb)())
        signals.not_at_all()
    except KeyboardInterrupt:
        return 130
    return streams.finish(code)


def _again_with_docstrings() -> None:
    """Start this process again without PYTHONOPTIMIZE=2 or -OO, with which libraries that nnU-Net needs cannot be imported."""
    import signal

    words = [word for word in sys.orig_argv if not re.fullmatch("-O+", word)]
    if os.environ.pop("PYTHONOPTIMIZE", None) is None and words == sys.orig_argv:
        return
    # Held back until the new process answers them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    os.execv(sys.executable, [sys.executable, *words[1:]])
