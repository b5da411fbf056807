"""The report's figures, each an SVG text made from `results.json`'s document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from unet3d.errors import shown
from unet3d.results.reached import Reached
from unet3d.results.report.theme import ACCENT, INK, MUTED, PANEL, REGION_COLOURS, SECOND, SMALL, SOFT, canvas, number
from unet3d.results.schema import Accuracy, Layer, Samples, Statistics, dice_of
from unet3d.workload import REGIONS

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.ticker import MaxNLocator

LAYERS_SHOWN = 15
NAME_ROOM = 56  # characters of a layer's name and shape
LEAST_FOR_BARS = 20  # calls
STEADY = 0.02  # on both sides of the mean, of the axis of a run that does not drift
# Whose products a layer's share is of, by `ceiling` of its row.
PRODUCTS = {"hardware": "the hardware's products", "library": "a library's products"}
NAMES = {"WT": "Whole tumour", "TC": "Tumour core", "ET": "Enhancing tumour"}


def latency_distribution(latency_ms: Sequence[float], stats: Statistics) -> str:
    """The timed calls' latencies, mean and percentiles: a histogram with every call below it, of few calls dots alone."""
    values = np.asarray(latency_ms)
    bars = len(values) >= LEAST_FOR_BARS
    label = f"{'Histogram of ' if bars else ''}{len(values)} latencies, mean {number(stats['mean'])} ms"
    with canvas("distribution", label, 2.7 if bars else 2.0) as drawn:
        axes = drawn.axes
        jitter = np.random.default_rng(0).uniform(-1, 1, len(values))
        dots: dict[str, Any] = {"color": ACCENT, "markersize": 4.5 if bars else 6, "alpha": 0.75, "markeredgewidth": 0}
        if bars:
            bins = min(40, max(5, 2 * int(np.ceil(len(values) ** 0.5))))
            # Bins of latencies that are all but the same would be narrower than a number can tell.
            span = max(float(np.ptp(values)), 1e-6 * float(values.max()))
            middle = (float(values.min()) + float(values.max())) / 2
            ends = (middle - span / 2, middle + span / 2)
            counts, _, _ = axes.hist(values, bins=bins, range=ends, color=SOFT, edgecolor=PANEL, linewidth=1)
            top = max(1.0, float(np.max(counts)))
            axes.plot(values, top * (-0.14 + 0.05 * jitter), "o", **dots)
            axes.set(ylabel="calls", ylim=(-0.26 * top, 1.08 * top))
            axes.set_yticks([tick for tick in axes.get_yticks() if tick >= 0 and tick == round(tick) and tick <= 1.08 * top])
        else:
            axes.plot(values, 0.3 * jitter, "o", **dots)
            axes.set(yticks=[], ylim=(-1, 1))
            axes.spines["left"].set_visible(False)
        for value, style, name in (
            (stats["mean"], "-", "mean"),
            (stats["p50"], "--", "p50"),
            (stats["p90"], "-.", "p90"),
            (stats["p99"], ":", "p99"),
        ):
            axes.axvline(value, color=INK, linestyle=style, linewidth=1.2, label=f"{name} {number(value)}")
        axes.set(xlabel="latency, ms")
        axes.grid(visible=False, axis="x")
        few_ticks(axes.xaxis)
        drawn.figure.legend(loc="outside upper center", ncols=2, handlelength=1.8, columnspacing=1.5)
    return drawn.svg


def latency_series(samples: Samples, warm: Sequence[float], stats: Statistics) -> str:
    """Latency of each call in the order of their starts, the untimed warm-up calls (`warm`, in ms) before them.

    The axis is that of the timed calls, and so narrow that a drift of one percent is seen. Warm-up calls beyond it stand
    at its edge, as arrows.
    """
    values = samples["latency_ms"]
    ranks = sorted(set(samples["rank"]))
    label = f"Latency of {len(values)} calls in their order, from {number(stats['min'])} to {number(stats['max'])} ms"
    low, high = drift_limits(stats)
    with canvas("series", label, 2.7) as drawn:
        axes = drawn.axes
        calls = np.arange(1, len(values) + 1)
        if warm:
            numbers, seen = np.arange(1 - len(warm), 1), np.clip(warm, low, high)
            axes.plot(numbers, seen, color=MUTED, linewidth=0.8)
            for marker, inside in (("o", seen == warm), ("^", np.array(warm) > high), ("v", np.array(warm) < low)):
                axes.plot(
                    numbers[inside],
                    seen[inside],
                    marker,
                    color=MUTED,
                    markerfacecolor="none" if marker == "o" else MUTED,
                    markersize=5,
                    clip_on=False,
                )
            axes.plot([], [], "o", color=MUTED, markerfacecolor="none", markersize=4, label="warm-up, not counted")
        size = 3.5 if len(values) > 60 else 4.5
        in_order = len(ranks) == 1 and max(samples["stream"], default=0) == 0  # calls that overlap are no sequence
        axes.plot(
            calls,
            values,
            "o-" if in_order else "o",
            color=ACCENT,
            label=f"timed, {len(ranks)} ranks" if len(ranks) > 1 else "timed",
            alpha=1 if in_order else 0.7,
            markersize=size,
            linewidth=1,
        )
        axes.axhline(stats["mean"], color=INK, linewidth=1, linestyle="--", label="mean")
        axes.set(xlabel="call" + (" (0 and below: warm-up)" if warm else ""), ylabel="latency, ms", ylim=(low, high))
        cast("MaxNLocator", axes.xaxis.get_major_locator()).set_params(integer=True)
        mean = stats["mean"]
        relative: Any = (lambda ms: 100 * (ms / mean - 1), lambda percent: mean * (1 + percent / 100))
        share = axes.secondary_yaxis("right", functions=relative)
        share.set_ylabel("from the mean, %")
        share.spines["right"].set_visible(False)
        drawn.figure.legend(loc="outside upper center", ncols=3, handlelength=1.5, columnspacing=1)
    return drawn.svg


def drift_limits(stats: Statistics) -> tuple[float, float]:
    """Lowest and highest latency, in ms, of an axis that holds every timed call and on which 1% is a quarter at least of
    what is shown of a steady run."""
    mean = stats["mean"]
    room = 0.12 * (stats["max"] - stats["min"])
    return min(stats["min"] - room, mean * (1 - STEADY)), max(stats["max"] + room, mean * (1 + STEADY))


def few_ticks(axis: Axis, count: int = 5) -> None:
    """No more ticks than have room on a phone."""
    cast("MaxNLocator", axis.get_major_locator()).set_params(nbins=count)


def call_parts(samples: Samples) -> str:
    """Mean milliseconds of a call's three parts: staging, inference, labels."""
    parts = [
        ("staging", float(np.mean(samples["stage_ms"])), MUTED),
        ("inference (the latency)", float(np.mean(samples["latency_ms"])), ACCENT),
        ("labels to the host", float(np.mean(samples["post_ms"])), SECOND),
    ]
    whole = sum(value for _, value, _ in parts)
    with canvas("parts", "Mean time of staging, inference and labels of a call", 1.6) as drawn:
        axes, left = drawn.axes, 0.0
        for name, value, colour in parts:
            axes.barh(
                0,
                value,
                left=left,
                color=colour,
                height=0.5,
                edgecolor=PANEL,
                label=f"{name} {number(value)} ms ({value / whole:.1%})",
            )
            left += value
        axes.set(xlabel="ms", yticks=[], xlim=(0, whole))
        few_ticks(axes.xaxis)
        axes.spines["left"].set_visible(False)
        drawn.figure.legend(loc="outside upper left", handlelength=1)
    return drawn.svg


def telemetry(series: Mapping[str, Sequence[float | None]], metrics: Sequence[tuple[str, str]]) -> str:
    """One row a metric over the seconds of the measured window; `metrics`: key and axis label of each."""
    label = "While measuring: " + ", ".join(text for _, text in metrics)
    with canvas("telemetry", label, 0.5 + 1.05 * len(metrics), rows=len(metrics)) as drawn:
        seconds = np.array(series["time_s"], float)
        for axes, (key, text) in zip(drawn.stacked, metrics, strict=True):
            values = np.array([np.nan if value is None else value for value in series[key]], float)
            axes.plot(seconds, values, color=ACCENT, linewidth=1.2)
            axes.set_title(text, loc="left", fontsize=SMALL, color=MUTED)
            axes.set_ylim(0, max(1e-9, 1.15 * float(np.nanmax(values))))
            cast("MaxNLocator", axes.yaxis.get_major_locator()).set_params(nbins=3)
        drawn.stacked[-1].set_xlabel("s")
    return drawn.svg


def layers(rows: Sequence[Layer]) -> str:
    """Share of the time of each row of `unet3d.measure.profile`, the longest first; the rest of them in one bar."""
    ordered = sorted(rows, key=lambda row: -row["ms"])
    whole = sum(row["ms"] for row in ordered)
    bars = [(_layer_name(row), row["ms"], _reached(row)) for row in ordered[:LAYERS_SHOWN]]
    rest = ordered[LAYERS_SHOWN:]
    if rest:
        bars.append((f"{len(rest)} others", sum(row["ms"] for row in rest), ""))
    with canvas("layers", f"Share of the time of {len(ordered)} layers", 0.6 + 0.42 * len(bars)) as drawn:
        axes = drawn.axes
        shares = [100 * ms / whole for _, ms, _ in bars]
        axes.barh(range(len(bars)), shares, color=[ACCENT] * (len(bars) - bool(rest)) + [MUTED] * bool(rest), height=0.32)
        for row, (share, (name, ms, reached)) in enumerate(zip(shares, bars, strict=True)):
            # Above its bar a name has the figure's whole width.
            drawn.note(name, (0, row - 0.2), INK, va="bottom")
            drawn.note(f"{share:.1f}%, {number(ms)} ms{reached}", (share, row), MUTED, xytext=(4, 0), va="center")
        axes.set(xlabel="share of the time, %", yticks=[], ylim=(len(bars) - 0.6, -0.95), xlim=(0, 2.4 * max(shares)))
        axes.spines["left"].set_visible(False)
        few_ticks(axes.xaxis)
    return drawn.svg


def _layer_name(row: Layer) -> str:
    """The layer, and its kernel or its operator without its library's name; as long as there is room beside figures."""
    layer, kernel = row.get("layer") or "", row.get("kernel") or ""
    # A kernel's shapes are its operator's, and its name is long.
    shape = next((shape for shape in row.get("shapes") or [] if len(shape) == 5), []) if not kernel else []
    extents = "×".join(map(str, shape[1:]))
    name = kernel.removeprefix("void ") or row["name"].rpartition("::")[2]
    words = (layer, shown(name, max(8, NAME_ROOM - len(layer) - len(extents))), extents)
    return " ".join(word for word in words if word)


def _reached(row: Layer) -> str:
    products = PRODUCTS.get(row.get("ceiling") or "", "arithmetic")
    reached = ((row.get("share_of_matmul"), products), (row.get("share_of_copy"), "copying"))
    shares = [f", {share:.0%} of {what}" for share, what in reached if share]
    return max(shares, key=lambda text: float(text[2:].partition("%")[0])) if shares else ""


def ceilings(run: Reached) -> str:
    """TFLOP/s of the run on the measured ceiling."""
    counted = "nominal" if run.executed is None else "executed"
    label = f"{number(run.tflops)} {counted} of {number(run.ceiling)} TFLOP/s, {run.share:.0%} of the measured {run.name}"
    with canvas("ceilings", label, 1.45) as drawn:
        axes = drawn.axes
        axes.barh(0, run.ceiling, color=SOFT, height=0.5, label=f"{run.name} {number(run.ceiling)}")
        axes.barh(0, run.tflops, color=ACCENT, height=0.5, label=f"this run {number(run.tflops)} ({run.share:.0%})")
        axes.set(xlabel=f"TFLOP/s, {counted}", yticks=[], xlim=(0, 1.02 * max(run.ceiling, run.tflops)))
        axes.spines["left"].set_visible(False)
        drawn.figure.legend(loc="outside upper left", handlelength=1)
    return drawn.svg


def dice(accuracy: Accuracy) -> str:
    """A strip of cases for each region with the mean."""
    cases = accuracy["cases"]
    mean_of = {region: mean for region in REGIONS if (mean := dice_of(accuracy, region)) is not None}
    means = ", ".join(f"{NAMES[region]} {mean:.4f}" for region, mean in mean_of.items())
    with canvas("dice", f"Dice of {len(cases)} cases by region; means: {means}", 2.7) as drawn:
        axes, rng = drawn.axes, np.random.default_rng(0)
        for row, region in enumerate(REGIONS):
            values = [value for scores in cases.values() if (value := scores[region]) is not None]
            spread = rng.uniform(-0.2, 0.2, len(values)) if len(values) > 8 else np.zeros(len(values))
            axes.plot(values, row + spread, "o", color=REGION_COLOURS[region], markersize=5, alpha=0.65, markeredgewidth=0)
            if region in mean_of:
                axes.plot([mean_of[region]] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2)
                axes.annotate(
                    f"mean {mean_of[region]:.4f}", (mean_of[region], row - 0.38), ha="center", va="bottom", fontsize=SMALL
                )
        lowest = min((value for scores in cases.values() for value in scores.values() if value is not None), default=0)
        axes.set_yticks(range(len(REGIONS)), [NAMES[region] for region in REGIONS])
        axes.set(xlabel="Dice", ylim=(len(REGIONS) - 0.45, -0.75), xlim=(min(0.9, np.floor(10 * lowest) / 10) - 0.01, 1.01))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    return drawn.svg
