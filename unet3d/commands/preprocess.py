"""`./preprocess.sh`: every case of a data set prepared ahead of runs, for data sets that runs cannot write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from unet3d.config import parse, table
from unet3d.config.values import Asked
from unet3d.errors import ExitCode, UserErrors

SETTINGS = ("dataset_dir", "preprocessed_dir", "output_dir")


def main(argv: Sequence[str]) -> int:
    """Preprocess every case of DATASET_DIR; 1 when cases are bad.

    Raises:
        UserErrors: settings that are not allowed.
        UserError: when the data set cannot be read or the store not be written to.
    """
    if "--help" in argv or "-h" in argv:
        print(table.help_text("./preprocess.sh", SETTINGS))
        return ExitCode.DONE
    given, problems = parse.parse(argv, os.environ)
    asked = Asked.of(given)
    if asked.dataset_dir is None:
        problems.append("DATASET_DIR is not set; name the folder that holds HGG and LGG")
    if problems or asked.dataset_dir is None:
        raise UserErrors(problems)
    from unet3d.brats import dataset, preprocessing

    names = [case.name for case in dataset.find_cases(asked.dataset_dir)]
    target, reason = asked.preprocessed_dir, ""
    if target is None:
        target, reason = preprocessing.choose_store(asked.dataset_dir, asked.output_dir)
    report = preprocessing.preprocess(asked.dataset_dir, target, names)
    for name, reason in sorted(report.failed.items()):
        print(f"ERROR: {name}: {reason}", file=sys.stderr)
    print(
        f"{len(report.done)} cases preprocessed, {len(report.skipped)} were there already, "
        f"{len(report.failed)} cannot be used; volumes are in {target}" + (f" ({reason})" if reason else "")
    )
    return ExitCode.NOT_ALL if report.failed else ExitCode.DONE
