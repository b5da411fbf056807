"""What the report says, from `results.json`'s document: headline, tables and figures in the order of the page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TypedDict

from unet3d.results import reached
from unet3d.results.console import fraction
from unet3d.results.report import charts, slices, tables
from unet3d.results.report.tables import Row3, Rows
from unet3d.results.report.theme import VARIABLES, number
from unet3d.results.schema import Accuracy, Results, dice_of, rank_count
from unet3d.workload import REGIONS

# Outlines lie on a black image in either scheme.
OUTLINES = {"WT": "#2ee6c5", "TC": "#ffa040", "ET": "#ff70d8"}
OUTLINED = {"flair": ("WT",), "t1ce": ("TC", "ET")}
MODALITY_NAMES = {"flair": "FLAIR", "t1ce": "T1ce"}
PLACE_NAMES = {"best": "Best case", "median": "Case in the middle", "worst": "Worst case"}
TELEMETRY = (
    ("cpu_utilisation_percent", "CPU utilisation, %"),
    ("gpu_utilisation_percent", "GPU utilisation, %"),
    ("cpu_power_w", "CPU power, W"),
    ("gpu_power_w", "GPU power, W"),
    ("cpu_clock_mhz", "CPU clock, MHz"),
    ("gpu_core_clock_mhz", "GPU clock, MHz"),
    ("cpu_temperature_c", "CPU temperature, °C"),
    ("gpu_temperature_c", "GPU temperature, °C"),
)


class Picture(TypedDict):
    """An image of a case: its caption, the WebP in base64, and what it shows for those who cannot see it."""

    caption: str
    data: str
    alt: str


class ShownCase(TypedDict):
    """One of the three cases with pictures; `z`: the slice."""

    place: str
    name: str
    z: int
    pictures: list[Picture]
    scores: str


class Context(TypedDict):
    """Everything that the template shows; `figures`: SVG by name."""

    doc: Results
    variables: tuple[str, ...]
    title: str
    tiles: list[Row3]
    what: str
    settings: list[Row3]
    changed: int
    machine: Rows
    software: Rows
    ran: Rows
    loadgen: Rows
    compliance: Rows
    ranks: tuple[list[str], list[list[str]]]
    together: str
    figures: dict[str, str]
    ceiling: list[str]
    latency: Rows
    outlines: dict[str, str]
    cases: list[tuple[str, list[str]]]
    slices: list[ShownCase]
    regions: list[Row3]


def context(doc: Results, folder: Path) -> Context:
    """What the template shows of a results.json. folder: where `slices.npz` may be."""
    stats, accuracy = doc["statistics"], doc["accuracy"]
    return {
        "doc": doc,
        "variables": VARIABLES,
        "title": _title(doc),
        "tiles": _tiles(doc),
        "what": _what(doc),
        "settings": (settings := tables.settings(doc)),
        "changed": sum(bool(why) for _, _, why in settings),
        "machine": tables.machine(doc),
        "software": tables.software(doc),
        "ran": tables.ran(doc),
        "loadgen": tables.loadgen(doc),
        "compliance": tables.compliance(doc),
        "ranks": tables.ranks(doc),
        "together": tables.together(doc),
        "figures": _figures(doc),
        "ceiling": reached.notes(doc),
        "latency": tables.latency(stats) if stats else [],
        "outlines": OUTLINES,
        "cases": _cases(accuracy) if accuracy else [],
        "slices": _slices(accuracy, folder) if accuracy else [],
        "regions": _regions(accuracy) if accuracy else [],
    }


def _figures(doc: Results) -> dict[str, str]:
    """SVG of every figure that there is something to draw for."""
    figures: dict[str, str] = {}
    if stats := doc["statistics"]:
        figures |= {
            "distribution": charts.latency_distribution(doc["samples"]["latency_ms"], stats),
            "series": charts.latency_series(doc["samples"], doc["warm_up"].get("latency_ms") or [], stats),
            "parts": charts.call_parts(doc["samples"]),
        }
        if ceiling := reached.of(doc):
            figures["ceilings"] = charts.ceilings(ceiling)
    if layers := [layer for layer in doc.get("profile") or [] if layer["ms"]]:
        figures["layers"] = charts.layers(layers)
    telemetry = doc.get("telemetry")
    series = telemetry["series"] if telemetry else {}
    shown = [(key, text) for key, text in TELEMETRY if sum(value is not None for value in series.get(key, [])) > 1]
    if shown:
        figures["telemetry"] = charts.telemetry(series, shown)
    if doc["accuracy"]:
        figures["dice"] = charts.dice(doc["accuracy"])
    return figures


def _title(doc: Results) -> str:
    """The name of what ran: the machine's CPU, or the device beside it."""
    hardware, requested = doc["environment"].get("hardware", {}), doc["settings"]["requested"]
    device = doc["effective"].get("device") or ("cpu" if requested["platform"] == "CPU" else requested["platform"])
    return hardware.get("cpu", "CPU") if device == "cpu" else hardware.get("device", device)


def _what(doc: Results) -> str:
    effective, requested = doc["effective"], doc["settings"]["requested"]
    jit = effective.get("jit")
    parts = [
        effective.get("engine"),
        effective.get("precision"),
        jit and ("no JIT" if jit == "none" else f"JIT {jit}"),
        effective.get("layout"),
        f"batch {requested['batch_size']}",
    ]
    if requested["streams"] != 1:
        parts.append(f"{requested['streams']} streams")
    if (ranks := rank_count(doc["ranks"], doc["samples"]["rank"])) > 1:
        parts.append(f"{ranks} ranks")
    parts.append("volume " + "×".join(str(extent) for extent in doc["volume"]["shape"]))
    if doc["scenario"] != "loop":
        parts.append(f"LoadGen {doc['scenario']}")
    return ", ".join(str(part) for part in parts if part)


def _tiles(doc: Results) -> list[tuple[str, str, str]]:
    """Name, figure, unit of the headline."""
    stats, accuracy, telemetry = doc["statistics"], doc["accuracy"], doc.get("telemetry")
    tiles = []
    if stats:
        tiles += [
            ("throughput", number(stats["throughput"]), "volumes/s"),
            ("latency, mean", number(stats["mean"]), "ms"),
            ("latency, p90", number(stats["p90"]), "ms"),
            ("compute rate", number(stats["tflops"]), "nominal TFLOP/s"),
        ]
    if accuracy and accuracy["total"] is not None:
        tiles.append(("Dice, mean of regions", f"{accuracy['total']:.4f}", f"{len(accuracy['cases'])} cases"))
    peak = doc["memory"].get("peak_device_bytes") or doc["memory"].get("peak_host_bytes")
    if peak:
        where = "device" if doc["memory"].get("peak_device_bytes") else "host"
        tiles.append((f"peak memory, {where}", number(peak / 2**30), "GiB"))
    energy = telemetry["energy"] if telemetry else None
    joules = energy["joules_per_volume"] if energy else {}
    return tiles + [(f"energy, {name}", number(value), "J/volume") for name, value in joules.items()]


def _regions(accuracy: Accuracy) -> list[tuple[str, str, str]]:
    """Region, mean Dice, and what else is known of it."""
    reference = accuracy.get("mlperf_reference") or {}
    rows = []
    for region, name in (*charts.NAMES.items(), ("total", "Mean of the three")):
        notes = []
        if undefined := accuracy["undefined"].get(region):
            notes.append(f"undefined in {undefined} of {len(accuracy['cases'])} cases, which are left out")
        if region in reference:
            notes.append(f"MLPerf's reference {reference[region]:.4f}")
        rows.append((name, fraction(dice_of(accuracy, region)), "; ".join(notes)))
    return rows


def _cases(accuracy: Accuracy) -> list[tuple[str, list[str]]]:
    return [(name, [fraction(scores[region]) for region in REGIONS]) for name, scores in accuracy["cases"].items()]


def _slices(accuracy: Accuracy, folder: Path) -> list[ShownCase]:
    shown: list[ShownCase] = []
    cases = slices.load(folder, accuracy["cases"])
    box = slices.common_box(cases) if cases else ((0, 0), (0, 0))
    for case in cases:
        scores = accuracy["cases"][case.name]
        pictures: list[Picture] = []
        for modality, outlined in OUTLINED.items():
            data = slices.picture(case, modality, {region: REGIONS[region] for region in outlined}, OUTLINES, box)
            pictures.append(
                {
                    "caption": MODALITY_NAMES[modality],
                    "data": base64.b64encode(data).decode("ascii"),
                    "alt": f"{MODALITY_NAMES[modality]} slice {case.labels.z} of {case.name}, "
                    f"{' and '.join(outlined)} outlined",
                }
            )
        place = "Only case" if len(accuracy["cases"]) == 1 else PLACE_NAMES[case.place]
        shown.append(
            {
                "place": place,
                "name": case.name,
                "z": case.labels.z,
                "pictures": pictures,
                "scores": ", ".join(f"{region} {fraction(scores[region])}" for region in REGIONS),
            }
        )
    return shown
