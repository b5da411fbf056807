"""`./run_model.sh compare`: two results beside each other, or many in a ranked table, by what noise allows to say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d.commands.arguments import OneLineParser
from unet3d.errors import UserError, shown

if TYPE_CHECKING:
    from unet3d.commands.compare.runs import Side

DESCRIPTION = """\
Two results: the second against the first, with intervals. More of them, or a folder that holds many: a ranked table.

A RUN is an OUTPUT_DIR, a results.json, or a folder with results below it. Several runs of the same settings, divided by
commas, count as one side with repeats, which also shows how much runs differ from one another.

  compare before after                  is it faster, or is it noise?
  compare sweep/ --output page.html     everything below a folder on one page, which sorts and filters
  compare a b c --against a             each one's ratio to a, with its interval
  compare reference output              one's own run beside the results that come with the benchmark
  compare --history results/            each result against the one before it on the same machine"""
EPILOG = """\
exit code: 0; 1 with --fail-if-slower when a side's throughput is lower by more than that, beyond noise; 2 for bad input"""
FORMATS = {"text": ".txt", "markdown": ".md", "csv": ".csv", "json": ".json", "html": ".html"}


def main(argv: Sequence[str]) -> int:
    """Compare the runs that `argv` names and print or write the table; returns the exit code, see EPILOG.

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
    parser.add_argument("--against", metavar="RUN", help="give every result's ratio to this one, with its interval")
    parser.add_argument("--history", action="store_true", help="by date; each result against the one before it")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of --output, otherwise text")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it here; .txt, .md, .csv, .json or .html")
    parser.add_argument("--markdown", action="store_true", help="the same as --format markdown, for a pull request")
    parser.add_argument("--fail-if-slower", metavar="PERCENT", help="such as 5%%: exit code 1 when slower by more")
    parser.add_argument(
        "--anyway", action="store_true", help="compare incomplete runs and different workloads too; the table says so"
    )
    if "--help" in argv or "-h" in argv:
        parser.print_help()
        return 0
    given = parser.parse_intermixed_args(argv)
    limit = _share(given.fail_if_slower)
    form = _format(given)

    from unet3d.commands.compare import reference, sides

    if given.runs[:1] == [reference.WORD]:
        found = sides.with_reference(given.runs[1:], given.against)
    else:
        found = sides.named(given.runs, given.against)
    if given.history and (limit is not None or given.against or found.own):
        raise UserError("compare: --history compares each result with the one before it; leave out --against and the rest")
    pair = len(found.sides) == 2 and form in ("text", "markdown") and not (given.history or found.own or found.notes)
    if given.output:
        _must_be_no_run(given.output, found.sides)
    base, others = found.split()
    if pair or limit is not None:
        _must_be_comparable(base, others, given.anyway)
    if limit is not None:
        _must_be_enough([base, *others])

    from unet3d.commands.compare import many, two

    if pair:
        written, gates = two.compare(base, others[0], limit, markdown=form == "markdown")
    else:
        written, gates = many.compare(found, form, given.history, given.anyway, limit)
    if given.output:
        from unet3d.files import write_atomically

        write_atomically(given.output, written.rstrip("\n") + "\n")
        print("\n".join([str(given.output), *(line for _, line in gates)]))
    else:
        print(written.rstrip("\n"))
    return 1 if any(failed for failed, _ in gates) else 0


def _format(given: argparse.Namespace) -> str:
    """The name of the format, from what was given or from the file's ending."""
    if given.format or given.markdown:
        if given.markdown and given.format not in (None, "markdown"):
            raise UserError(f"compare: --markdown and --format {given.format} contradict each other; leave one of them out")
        return given.format or "markdown"
    if given.output is None:
        return "text"
    for name, ending in FORMATS.items():
        if given.output.suffix.lower() == ending:
            return name
    raise UserError(
        f"--output: {shown(given.output)} ends in none of {', '.join(FORMATS.values())}; name such a file, or give --format"
    )


def _must_be_no_run(output: Path, sides: Sequence[Side]) -> None:
    """See that the table takes the place of nothing that a run has written.

    Raises:
        UserError: for a file that is compared, and for one that is there with the name of a run's own.
    """
    from unet3d.results import document

    try:
        place, there = output.resolve(), output.exists()
    except (OSError, ValueError, RuntimeError):  # names that no file can have, rings of links: the writer tells
        return
    if any(place in side.files for side in sides) or (there and {output.name, place.name} & set(document.FILES)):
        raise UserError(f"--output: {shown(output)} belongs to a run, whose results would be lost; name another file")


def _must_be_comparable(base: Side, others: Sequence[Side], anyway: bool) -> None:
    from unet3d.commands.compare import runs

    for other in others:
        if (reasons := runs.not_comparable(base, other)) and not anyway:
            raise UserError(
                f"{shown(base.name)} and {shown(other.name)} must not be compared: {'; '.join(map(shown, reasons))}; "
                "--anyway compares them and says so"
            )


def _must_be_enough(measured: Sequence[Side]) -> None:
    from unet3d.results import bootstrap

    for side in measured:
        if not side.enough:
            raise UserError(
                f"{shown(side.name)}: --fail-if-slower needs at least {bootstrap.FEWEST} calls in a row in each stream "
                f"and rank of a run; raise NUM_ITERATIONS to {side.fewest_calls} or more"
            )


def _share(text: str | None) -> float | None:
    """5% or 5 as 0.05."""
    if text is None:
        return None
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent < 100:
        raise UserError(f"--fail-if-slower: {shown(repr(text))} is not allowed; give percents from 0 to below 100, such as 5%")
    return percent / 100
