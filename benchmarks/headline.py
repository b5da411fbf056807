"""The README's table of machines, from the results in benchmarks/results/.

python benchmarks/headline.py            prints it
python benchmarks/headline.py --write    puts it into README.md, between the two comments
python benchmarks/headline.py --add RUN  puts a run's results.json into benchmarks/results/, ready to be committed
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from unet3d.commands import escape
from unet3d.commands.compare import reference, rows
from unet3d.commands.compare.rows import Row
from unet3d.commands.compare.runs import Side
from unet3d.errors import BenchmarkError, UserError, tell
from unet3d.files import write_atomically
from unet3d.results.report.theme import number

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- headline: written by python benchmarks/headline.py --write -->"
END = "<!-- end of headline -->"
HEAD = ("Machine", "Precision, engine", "Volumes/s", "Latency p90, ms", "J per volume", "Dice", "Commit", "Date")


def headline(sides: Sequence[Side] | None = None) -> str:
    """The Markdown table of the committed results, the fastest first; a dash where a result has no such figure.

    sides: other results than those. Dice is shown of the trained weights on real cases alone.

    Raises:
        UserError: when a result cannot be read.
    """
    given = reference.sides() if sides is None else sides
    ranked = sorted((Row(side.name, side) for side in given), key=lambda row: -row.side.value("throughput"))
    aligned = (escape.LEFT, escape.LEFT, *[escape.RIGHT] * 4, escape.LEFT, escape.LEFT)
    return "\n".join(escape.markdown_table(HEAD, [_cells(row) for row in ranked], aligned))


def _cells(row: Row) -> tuple[str, ...]:
    values = row.values
    extra = f", {values['streams']} streams" if str(values["streams"]) != "1" else ""
    extra += f", batch {values['batch_size']}" if str(values["batch_size"]) != "1" else ""
    joules = values["joules_per_volume"]
    dice = rows.dice(row.doc) if _real(row) else None
    return (
        _machine(row),
        f"{values['precision']}, {values['engine']}{extra}",
        number(row.side.value("throughput")),
        number(row.side.value("p90")),
        number(joules) if isinstance(joules, float) else "–",
        "–" if dice is None else f"{dice:.4f}",
        str(values["commit"])[:8] if values["commit"] else "–",
        str(values["date"]),
    )


def _machine(row: Row) -> str:
    """A CPU with its strongest instructions: in clouds those of several generations have one name."""
    machine = row.machine
    instructions = machine.instructions if machine.platform == "CPU" else None
    return f"{machine.label}, {instructions}" if instructions else machine.label


def _real(row: Row) -> bool:
    """Whether Dice is of MLPerf's weights on the fold's own cases."""
    return row.doc["weights"].get("kind") == "mlperf" and row.doc["data"].get("standard_names") is True


def with_headline(readme: str, table: str) -> str:
    """The README with this table between the two comments.

    Raises:
        UserError: when the comments are not there, once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise UserError(f"README.md: lacks the two comments between which the table belongs: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print or write the table, or add a result; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--add", type=Path, metavar="RUN", help="an OUTPUT_DIR or a results.json")
    given = parser.parse_args(argv)
    try:
        if given.add:
            print(reference.add(given.add))
        elif given.write:
            write_atomically(README, with_headline(README.read_text(encoding="utf-8"), headline()))
        else:
            print(headline())
    except BenchmarkError as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
