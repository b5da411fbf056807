"""`./run_model.sh compare A B`: is one run faster than another, or is it noise?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from unet3d.commands.arguments import OneLineParser
from unet3d.errors import UserError, shown

DESCRIPTION = """\
Compare runs: each further one with the first. A run is an OUTPUT_DIR or a results.json; several runs of the same
settings, divided by commas, count as one side with repeats, which also shows how much runs differ from one another."""
EPILOG = """\
exit code: 0; 1 with --fail-if-slower when a side's throughput is lower by more than that, beyond noise; 2 for bad input"""


def main(argv: Sequence[str]) -> int:
    """Compare the runs that `argv` names and print the table; returns the exit code, see EPILOG.

    Raises:
        UserError: for results that cannot be read, or that must not be compared.
    """
    parser = OneLineParser(
        prog="./run_model.sh compare",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for a pull request")
    parser.add_argument("--fail-if-slower", metavar="PERCENT", help="such as 5%%: exit code 1 when slower by more")
    parser.add_argument(
        "--anyway", action="store_true", help="compare incomplete runs and different workloads too; the table says so"
    )
    if "--help" in argv or "-h" in argv:
        parser.print_help()
        return 0
    given = parser.parse_args(argv)
    limit = _share(given.fail_if_slower)
    if len(given.runs) < 2:
        raise UserError(f"compare: {len(given.runs)} runs are named; name two or more: ./run_model.sh compare A B")

    from unet3d.commands.compare import measure, runs, tables
    from unet3d.results import bootstrap

    base, *others = (runs.read(argument) for argument in given.runs)
    problems = {other.name: runs.not_comparable(base, other) for other in others}
    if not given.anyway:
        for name, reasons in problems.items():
            if reasons:
                raise UserError(
                    f"{base.name} and {name} must not be compared: {'; '.join(reasons)}; --anyway compares them and says so"
                )
    if limit is not None:
        for side in (base, *others):
            if not side.enough:
                raise UserError(
                    f"{shown(side.name)}: --fail-if-slower needs at least {bootstrap.FEWEST} calls in a row in each stream "
                    f"and rank of a run; raise NUM_ITERATIONS to {side.fewest_calls} or more"
                )
    ratios = [measure.ratios(base, other) for other in others]
    gate = (
        None
        if limit is None
        else [tables.gate(other.name, ratio["throughput"], limit) for other, ratio in zip(others, ratios, strict=True)]
    )
    print(tables.render(base, others, ratios, problems, gate, markdown=given.markdown))
    return 1 if gate and any(failed for failed, _ in gate) else 0


def _share(text: str | None) -> float | None:
    """5% or 5 as 0.05."""
    if text is None:
        return None
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UserError(f"--fail-if-slower: {text!r} is not allowed; give percents from 0 to below 100, such as 5%")
    return percent / 100
