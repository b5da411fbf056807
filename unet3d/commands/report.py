"""`./run_model.sh report OUTPUT_DIR`: draws report.html of a finished run anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet3d import signals
from unet3d.commands.arguments import OneLineParser
from unet3d.results import reader, report

DESCRIPTION = f"Draw {report.FILE} of a finished run anew from its results.json. At the end of a run it is drawn by itself."


def main(argv: Sequence[str]) -> int:
    """Draw the report of the folder that `argv` names; returns 0.

    Raises:
        UserError: for a bad command line, when there is no results.json of this benchmark, or the folder cannot be
            written to.
    """
    parser = OneLineParser(prog="./run_model.sh report", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of a run, or a results.json")
    if "--help" in argv or "-h" in argv:
        parser.print_help()
        return 0
    given = parser.parse_args(argv)
    signals.by_exception()
    path = reader.file_of(given.folder)
    print(report.write(reader.read(path), path.parent))
    return 0
