"""Matplotlib figures as SVG inside a page: text in the page's font, colours that follow the page's light or dark scheme."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib knows no CSS variables: each colour is drawn as a number that stands for one and is exchanged in the SVG.
VARIABLES = ("ink", "muted", "grid", "panel", "accent", "soft", "second", "wt", "tc", "et")
COLOURS = {name: f"#0a0b{number:02x}" for number, name in enumerate(VARIABLES, start=1)}
INK, MUTED, GRID, PANEL, ACCENT, SOFT, SECOND, WT, TC, ET = (COLOURS[name] for name in VARIABLES)
REGION_COLOURS = {"WT": WT, "TC": TC, "ET": ET}

STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": MUTED,
    "legend.fontsize": 9,
    "axes.formatter.useoffset": False,
    # Names of layers and libraries are text, also where they hold a dollar sign.
    "text.parse_math": False,
}
WIDTH = 4.2  # inches: where the figure fills a phone's width, 360 pixels, its text is 11 pixels high
SMALL = 9  # points, of notes inside a figure


@contextmanager
def canvas(name: str, label: str, height: float, rows: int = 1) -> Iterator[Canvas]:
    """A figure to draw in; after the block `svg` of what was given holds it.

    name: distinguishes its identifiers from those of the page's other figures. label: said by screen readers.
    height: in inches. rows: of axes, one below the other over one x axis.
    """
    import logging

    # It complains in the log where the home folder cannot be written to; its fonts are not used.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib.style
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        # Of letters that the font lacks by which widths are estimated; the browser's has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        drawn = Canvas(figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]))
        yield drawn
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        drawn.svg = _for_page(buffer.getvalue(), name, label)


class Canvas:
    """`stacked`: the axes from top to bottom, `axes`: the first of them. `svg`: the finished figure."""

    def __init__(self, figure: Figure, stacked: list[Axes]):
        self.figure, self.stacked, self.axes, self.svg = figure, stacked, stacked[0], ""

    def note(self, text: str, at: tuple[float, float], colour: str, va: str, xytext: tuple[float, float] = (0, 0)) -> None:
        """Small text at a point of the first axes, moved by `xytext` points."""
        self.axes.annotate(text, at, xytext=xytext, textcoords="offset points", va=va, fontsize=SMALL, color=colour)


def _for_page(svg: str, name: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    extent = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert extent is not None, "Matplotlib writes one"
    width, height = extent.groups()
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}">'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "system-ui, sans-serif", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def number(value: float) -> str:
    """Four digits, never in powers of ten: 1234.5678 is 1235."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.6f}"
