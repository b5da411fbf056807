"""The closing sentence of a run: how fast and how sure, beside the machine's ceiling and the last run in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10
from pathlib import Path

from unet3d.commands.compare import measure, runs, samples
from unet3d.commands.compare.runs import Side
from unet3d.errors import UserError
from unet3d.results import reached, reader
from unet3d.results.bootstrap import Ratio
from unet3d.results.schema import Results

# An interval's draws hold every call some thousand times.
MOST_CALLS = 5000
WIDE = 0.2  # half an interval over its figure
# What has to be the same for two runs to be of one thing on one machine.
SAME = ("settings.", "machine.")


def last_run(moved: Sequence[Path]) -> Side | None:
    """The results among the files of an earlier run that were renamed; None where there are none that can be read."""
    named = Path(reader.FILE)
    file = next((path for path in moved if path.name.startswith(f"{named.stem}.") and path.suffix == named.suffix), None)
    try:
        return None if file is None else runs.read(str(file))
    except UserError:
        return None  # they were damaged before


def verdict(doc: Results, last: Side | None) -> str | None:
    """The sentence, each part only where it is known; None where nothing was measured."""
    stats = doc["statistics"]
    if not stats:
        return None
    now = Side("this run", [samples.compact(doc, runs.SAMPLES)])
    countable = now.calls <= MOST_CALLS
    parts = [
        f"{with_interval(measure.spread(now, 'throughput') if countable else Ratio(stats['throughput'], None, None))} volumes/s"
    ]
    if ceiling := reached.of(doc):
        parts.append(ceiling.sentence)
    if last is not None and last.calls <= MOST_CALLS and countable and _same(last, now):
        ratio = measure.ratios(last, now)["throughput"]
        noise = " (fewer calls than tell noise)" if ratio.low is None else "" if ratio.beyond_noise else " (within noise)"
        parts.append(f"{ratio.value:.2f} times the last run here{noise}")
    return ", ".join(parts)


def _same(last: Side, now: Side) -> bool:
    """Whether both are complete, of one workload, with the same settings on the same machine."""
    changed = (name for name, _ in runs.differing([last, now]) if name.startswith(SAME))
    return not runs.not_comparable(last, now) and next(changed, None) is None


def with_interval(figure: Ratio) -> str:
    """Value ± half of its interval, both to the interval's first digit: 0.114 ± 0.001. A wide interval is told by its ends,
    which then lie at different distances."""
    low, high = figure.low, figure.high
    if low is None or high is None or not high > low:
        return f"{figure.value:.4g}"
    half = (high - low) / 2
    if half > WIDE * figure.value:
        return f"{figure.value:.3g} ({low:.2g} to {high:.2g})"
    digits = max(0, -floor(log10(half)))
    return f"{figure.value:.{digits}f} ± {half:.{digits}f}"
