"""Figures of many results: throughput against energy or memory by machine, and over time. Every point belongs to a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from unet3d.commands.compare.rows import Row
from unet3d.errors import shown
from unet3d.results.report.theme import ACCENT, ET, INK, MUTED, SECOND, WT, canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (ACCENT, SECOND, WT, ET, INK)
MARKERS = "osD^vPX"
WIDE = 20  # times the smallest value, from which on an axis is logarithmic
LEGEND_WIDTH = 44  # characters


def against(rows: Sequence[Row], key: str, axis: str, name: str) -> str | None:
    """Throughput over a figure of Row.values, grouped by machine; None where no row has it."""
    known = [(place, row, value) for place, row in enumerate(rows) if isinstance(value := row.values[key], float)]
    if not known:
        return None
    machines = list(dict.fromkeys(str(row.values["machine"]) for _, row, _ in known))
    label = f"Throughput against {axis} of {len(known)} results on {len(machines)} machines"
    with canvas(name, label, 3.1 + 0.2 * min(len(machines), 12)) as drawn:
        axes = drawn.axes
        for number, machine in enumerate(machines):
            own = [(place, row, value) for place, row, value in known if row.values["machine"] == machine]
            _points(axes, own, number, _legend(machine))
        axes.set(xlabel=axis, ylabel="volumes/s")
        axes.margins(0.08)
        _scale(axes, "x", [value for _, _, value in known])
        _scale(axes, "y", [row.side.value("throughput") for _, row, _ in known])
        drawn.figure.legend(loc="outside upper left", handlelength=1)
    return drawn.svg


def over_time(rows: Sequence[Row]) -> str | None:
    """Throughput of each row over the date; rows that stand against each other are joined."""
    from matplotlib.dates import date2num

    dated: list[tuple[int, Row, float]] = []
    for place, row in enumerate(rows):
        try:
            started = datetime.fromisoformat(str(row.doc["started"]))
        except ValueError:
            continue
        dated.append((place, row, float(date2num(started.replace(tzinfo=None)))))
    if len(dated) < 2:
        return None
    machines = list(dict.fromkeys(str(row.values["machine"]) for _, row, _ in dated))
    when = {row.name: (date, row.side.value("throughput")) for _, row, date in dated}
    with canvas("time", f"Throughput of {len(dated)} results over time", 3.1 + 0.2 * min(len(machines), 12)) as drawn:
        axes = drawn.axes
        for _, row, date in dated:
            if row.against in when:
                before = when[row.against]
                axes.plot([before[0], date], [before[1], row.side.value("throughput")], color=MUTED, linewidth=0.9)
        for number, machine in enumerate(machines):
            own = [(place, row, date) for place, row, date in dated if row.values["machine"] == machine]
            _points(axes, own, number, _legend(machine))
        axes.set(ylabel="volumes/s")
        axes.margins(0.08)
        _scale(axes, "y", [row.side.value("throughput") for _, row, _ in dated])
        axes.xaxis_date()
        axes.tick_params(axis="x", labelrotation=30)
        drawn.figure.legend(loc="outside upper left", handlelength=1)
    return drawn.svg


def _scale(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Logarithmic where values lie far apart, otherwise from 0."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set(**{f"{name}scale": "log", f"{name}label": f"{getattr(axes, f'get_{name}label')()} (logarithmic)"})
        getattr(axes, f"{name}axis").set_major_formatter(lambda value, _: f"{value:g}")
        getattr(axes, f"{name}axis").set_minor_formatter(lambda *_: "")
    else:
        axes.set(**{f"{name}lim": (0, 1.08 * max(values) or 1)})


def _points(axes: Axes, own: Sequence[tuple[int, Row, float]], number: int, legend: str) -> None:
    """A machine's points (row's place, row, x), each an element of its own whose name ends in its row's place."""
    for place, row, x in own:
        [drawn] = axes.plot(
            [x],
            [row.side.value("throughput")],
            MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=9 if row.own else 6.5,
            markeredgecolor=INK if row.own else "none",
            label=legend if place == own[0][0] else None,
        )
        drawn.set_gid(f"point-{place}")


def _legend(machine: str) -> str:
    # Matplotlib leaves names that begin with an underscore out of legends.
    return shown(machine, LEGEND_WIDTH).lstrip("_") or "unknown"
