"""Where a process begins: `predict.py`, `python -m unet3d` and the installed command call `start`."""

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

        signals.at_once()
        streams.prepare()
        from unet3d import cli, files

        code = int(getattr(cli, verb)())
        signals.not_at_all()
    except KeyboardInterrupt:
        return 130
    files.remove_temporary()
    return streams.finish(code)
