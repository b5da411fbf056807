"""`./preprocess.sh`: every case of a data set prepared ahead of runs, for data sets that runs cannot write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from unet3d import signals
from unet3d.config import parse, table
from unet3d.config.values import Asked
from unet3d.devices import process
from unet3d.errors import ExitCode, UserErrors, shown
from unet3d.results import advice
from unet3d.results.console import Console

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
    process.import_torch()  # nnU-Net needs it
    from unet3d.brats import dataset, preprocessing

    signals.by_exception()
    for warning in advice.misspelt(os.environ):
        Console().warning(warning)
    names = [case.name for case in dataset.find_cases(asked.dataset_dir)]
    target, why = asked.preprocessed_dir, ""
    if target is None:
        target, why = preprocessing.choose_store(asked.dataset_dir, asked.output_dir)
    report = preprocessing.preprocess(asked.dataset_dir, target, names)
    for name, reason in sorted(report.failed.items()):
        print(f"ERROR: {shown(name)}: {shown(reason, 1000)}", file=sys.stderr)
    print(
        f"{len(report.done)} cases preprocessed, {len(report.skipped)} were there already, "
        f"{len(report.failed)} cannot be used; volumes are in {shown(target)}" + (f" ({shown(why, 1000)})" if why else "")
    )
    return ExitCode.NOT_ALL if report.failed else ExitCode.DONE
