"""The report's figures, each an SVG text made from `results.json`'s document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from unet3d.errors import shown
from unet3d.results.report.theme import ACCENT, INK, MUTED, PANEL, REGION_COLOURS, SECOND, SOFT, canvas, number
from unet3d.results.schema import Accuracy, Layer, Samples, Statistics, dice_of
from unet3d.workload import REGIONS

if TYPE_CHECKING:
    from matplotlib.ticker import MaxNLocator

LAYERS_SHOWN = 15
NAMES = {"WT": "Whole tumour", "TC": "Tumour core", "ET": "Enhancing tumour"}


def latency_distribution(latency_ms: Sequence[float], stats: Statistics) -> str:
    """Histogram of the timed calls' latencies with every sample below it, mean and percentiles."""
    values = np.asarray(latency_ms)
    with canvas("distribution", f"Histogram of {len(values)} latencies, mean {number(stats['mean'])} ms", 2.8) as drawn:
        axes = drawn.axes
        bins = min(40, max(5, 2 * int(np.ceil(len(values) ** 0.5))))
        # Bins of latencies that are all but the same would be narrower than a number can tell.
        span = max(float(np.ptp(values)), 1e-6 * float(values.max()))
        middle = (float(values.min()) + float(values.max())) / 2
        ends = (middle - span / 2, middle + span / 2)
        counts, _, _ = axes.hist(values, bins=bins, range=ends, color=SOFT, edgecolor=PANEL, linewidth=1)
        top = max(1.0, float(np.max(counts)))
        jitter = np.random.default_rng(0).uniform(-0.05, 0.05, len(values))
        axes.plot(values, top * (-0.14 + jitter), "o", color=ACCENT, markersize=4.5, alpha=0.75, markeredgewidth=0)
        for value, style, name in (
            (stats["mean"], "-", "mean"),
            (stats["p50"], "--", "p50"),
            (stats["p90"], "-.", "p90"),
            (stats["p99"], ":", "p99"),
        ):
            axes.axvline(value, color=INK, linestyle=style, linewidth=1.2, label=f"{name} {number(value)}")
        axes.set(xlabel="latency, ms", ylabel="calls", ylim=(-0.26 * top, 1.08 * top))
        axes.set_yticks([tick for tick in axes.get_yticks() if tick >= 0 and tick == round(tick) and tick <= 1.08 * top])
        axes.grid(visible=False, axis="x")
        drawn.figure.legend(loc="outside upper center", ncols=4, handlelength=1.6, columnspacing=1.2)
    return drawn.svg


def latency_series(samples: Samples, warm: Sequence[float], stats: Statistics) -> str:
    """Latency of each call in the order of their starts, the untimed warm-up calls (`warm`, in ms) before them."""
    values = samples["latency_ms"]
    ranks = sorted(set(samples["rank"]))
    label = f"Latency of {len(values)} calls in their order, from {number(stats['min'])} to {number(stats['max'])} ms"
    with canvas("series", label, 2.8) as drawn:
        axes = drawn.axes
        calls = np.arange(1, len(values) + 1)
        if warm:
            axes.plot(
                np.arange(1 - len(warm), 1),
                warm,
                "o-",
                color=MUTED,
                markerfacecolor="none",
                markersize=4,
                linewidth=0.8,
                label="warm-up, not counted",
            )
        size = 3.5 if len(values) > 60 else 4.5
        if len(ranks) == 1 and max(samples["stream"], default=0) == 0:
            axes.plot(calls, values, "o-", color=ACCENT, label="timed", markersize=size, linewidth=1)
        else:  # calls that overlap are no sequence
            axes.plot(
                calls,
                values,
                "o",
                color=ACCENT,
                label=f"timed, {len(ranks)} ranks" if len(ranks) > 1 else "timed",
                alpha=0.7,
                markersize=size,
                linewidth=1,
            )
        axes.axhline(stats["mean"], color=INK, linewidth=1, linestyle="--", label="mean")
        highest = max([*values, *warm])
        axes.set(xlabel="call" + (" (0 and below: warm-up)" if warm else ""), ylabel="latency, ms", ylim=(0, 1.08 * highest))
        cast("MaxNLocator", axes.xaxis.get_major_locator()).set_params(integer=True)
        drawn.figure.legend(loc="outside upper center", ncols=3)
    return drawn.svg


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
            axes.set_title(text, loc="left", fontsize=8.5, color=MUTED)
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
    with canvas("layers", f"Share of the time of {len(ordered)} layers", 0.7 + 0.24 * len(bars)) as drawn:
        axes = drawn.axes
        shares = [100 * ms / whole for _, ms, _ in bars]
        axes.barh(range(len(bars)), shares, color=[ACCENT] * (len(bars) - bool(rest)) + [MUTED] * bool(rest), height=0.68)
        for row, (share, (_, ms, reached)) in enumerate(zip(shares, bars, strict=True)):
            axes.annotate(
                f"{share:.1f}%, {number(ms)} ms{reached}",
                (share, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=MUTED,
            )
        axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
        axes.set(xlabel="share of the time, %", xlim=(0, 1.9 * max(shares)))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    return drawn.svg


def _layer_name(row: Layer, most: int = 34) -> str:
    """The operator without its library's name, with its first input's shape."""
    shape = next((shape for shape in row.get("shapes") or [] if len(shape) == 5), [])
    name = " ".join([row["name"].rpartition("::")[2], "×".join(map(str, shape[1:]))]).strip()
    return shown(name, most)


def _reached(row: Layer) -> str:
    reached = ((row.get("share_of_matmul"), "arithmetic"), (row.get("share_of_copy"), "copying"))
    shares = [f", {share:.0%} of {what}" for share, what in reached if share]
    return max(shares, key=lambda text: float(text[2:].partition("%")[0])) if shares else ""


def ceilings(reached: float, ceiling: float, what: str) -> str:
    """TFLOP/s of the run on the measured ceiling."""
    what = shown(what, 60)
    label = f"{number(reached)} of {number(ceiling)} TFLOP/s, {reached / ceiling:.0%} of the measured ceiling"
    with canvas("ceilings", label, 1.45) as drawn:
        axes = drawn.axes
        axes.barh(0, ceiling, color=SOFT, height=0.5, label=f"ceiling {number(ceiling)} ({what})")
        axes.barh(0, reached, color=ACCENT, height=0.5, label=f"this run {number(reached)} ({reached / ceiling:.0%})")
        axes.set(xlabel="TFLOP/s", yticks=[], xlim=(0, 1.02 * max(ceiling, reached)))
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
                    f"mean {mean_of[region]:.4f}", (mean_of[region], row - 0.38), ha="center", va="bottom", fontsize=8.5
                )
        lowest = min((value for scores in cases.values() for value in scores.values() if value is not None), default=0)
        axes.set_yticks(range(len(REGIONS)), [NAMES[region] for region in REGIONS])
        axes.set(xlabel="Dice", ylim=(len(REGIONS) - 0.45, -0.75), xlim=(min(0.9, np.floor(10 * lowest) / 10) - 0.01, 1.01))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    return drawn.svg
