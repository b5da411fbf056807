"""What the report says, from `results.json`'s document: headline, tables and figures in the order of the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet3d.config import kinds
from unet3d.config.settings import BY_NAME
from unet3d.results.report import charts, slices
from unet3d.results.report.theme import VARIABLES, number
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
    ("gpu_clock_mhz", "GPU clock, MHz"),
    ("cpu_temperature_c", "CPU temperature, °C"),
    ("gpu_temperature_c", "GPU temperature, °C"),
)

Rows = list[tuple[str, str]]


def context(doc: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that the template shows.

    doc: `results.json`. folder: where `slices.npz` may be.
    """
    stats = doc["statistics"]
    page: dict[str, Any] = {
        "doc": doc,
        "variables": VARIABLES,
        "title": _title(doc),
        "tiles": _tiles(doc),
        "what": _what(doc),
        "settings": _settings(doc),
        "machine": _machine(doc),
        "software": _software(doc),
        "ran": _ran(doc),
        "figures": {},
        "cases": [],
        "slices": [],
        "latency": _latency(stats) if stats else [],
        "outlines": OUTLINES,
    }
    figures = page["figures"]
    if stats:
        figures |= {
            "distribution": charts.latency_distribution(doc),
            "series": charts.latency_series(doc),
            "parts": charts.call_parts(doc),
        }
        if ceiling := _ceiling(doc):
            figures["ceilings"] = charts.ceilings(stats["tflops"], *ceiling)
    if layers := [row for row in doc.get("profile") or [] if row["ms"]]:
        figures["layers"] = charts.layers(layers)
    series = (doc.get("telemetry") or {}).get("series") or {}
    shown = [(key, text) for key, text in TELEMETRY if sum(value is not None for value in series.get(key, [])) > 1]
    if shown:
        figures["telemetry"] = charts.telemetry(series, shown)
    if doc["accuracy"]:
        figures["dice"] = charts.dice(doc["accuracy"])
        page["cases"] = _cases(doc["accuracy"])
        page["slices"] = _slices(doc["accuracy"], folder)
        page["regions"] = _regions(doc["accuracy"])
    return page


def _ceiling(doc: Mapping[str, Any]) -> tuple[float, str] | None:
    """TFLOP/s that the machine reached at best in this precision, and how."""
    measured = doc.get("ceilings") or {}
    if not measured.get("matmul_tflops"):
        return None
    return measured["matmul_tflops"], f"{measured['matmul_how']}, {measured['precision']}"


def _title(doc: Mapping[str, Any]) -> str:
    effective, hardware = doc["effective"], doc["environment"].get("hardware", {})
    device = effective.get("device") or doc["settings"]["requested"]["platform"]
    return hardware.get("cpu", "CPU") if device == "cpu" else str(device)


def _what(doc: Mapping[str, Any]) -> str:
    effective, requested = doc["effective"], doc["settings"]["requested"]
    jit = effective.get("jit")
    parts = [
        effective.get("engine"),
        effective.get("precision"),
        jit and ("no JIT" if jit == "none" else f"JIT {jit}"),
        effective.get("layout"),
        f"batch {requested['batch_size']}",
    ]
    if requested["streams"] != "1":
        parts.append(f"{requested['streams']} streams")
    if doc["ranks"]:
        parts.append(f"{len(doc['ranks'])} ranks")
    parts.append("volume " + "×".join(str(extent) for extent in doc["volume"]["shape"]))
    if doc["scenario"] != "loop":
        parts.append(f"LoadGen {doc['scenario']}")
    return ", ".join(str(part) for part in parts if part)


def _tiles(doc: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, figure, unit of the headline."""
    stats, accuracy = doc["statistics"], doc["accuracy"] or {}
    tiles = []
    if stats:
        tiles += [
            ("throughput", number(stats["throughput"]), "volumes/s"),
            ("latency, mean", number(stats["mean"]), "ms"),
            ("latency, p90", number(stats["p90"]), "ms"),
            ("compute rate", number(stats["tflops"]), "TFLOP/s"),
        ]
    if accuracy.get("total") is not None:
        tiles.append(("Dice, mean of regions", f"{accuracy['total']:.4f}", f"{len(accuracy['cases'])} cases"))
    peak = doc["memory"].get("peak_device_bytes") or doc["memory"].get("peak_host_bytes")
    if peak:
        where = "device" if doc["memory"].get("peak_device_bytes") else "host"
        tiles.append((f"peak memory, {where}", number(peak / 2**30), "GiB"))
    energy = (doc.get("telemetry") or {}).get("energy") or {}
    tiles += [(f"energy, {name}", number(value), "J/volume") for name, value in (energy.get("joules_per_volume") or {}).items()]
    return tiles


def _latency(stats: Mapping[str, Any]) -> Rows:
    names = (
        ("mean", "mean"),
        ("p50", "p50"),
        ("p90", "p90 (MLPerf SingleStream's figure)"),
        ("p99", "p99"),
        ("min", "min"),
        ("max", "max"),
        ("stdev", "standard deviation"),
        ("latency_with_overhead", "mean with the host's work"),
    )
    return [(text, f"{number(stats[key])} ms") for key, text in names] + [
        ("throughput with the host's work", f"{number(stats['throughput_with_overhead'])} volumes/s"),
        ("calls", str(stats["calls"])),
    ]


def _settings(doc: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Variable, value, why it has it."""
    settings = doc["settings"]
    rows = []
    for name, value in settings["requested"].items():
        source = settings["source"].get(name, "default")
        left_open = value == "none" and source == "default" and name in BY_NAME
        rows.append(
            (
                name.upper(),
                BY_NAME[name].shown_default if left_open else value,
                settings["reasons"].get(name) or ("" if source == "default" else source),
            )
        )
    return rows


def _machine(doc: Mapping[str, Any]) -> Rows:
    hardware = doc["environment"].get("hardware", {})
    return [
        (name.removesuffix("_bytes").replace("_", " "), _shown(name, value))
        for name, value in hardware.items()
        if value is not None
    ]


def _software(doc: Mapping[str, Any]) -> Rows:
    environment, benchmark = doc["environment"], doc["benchmark"]
    commit = benchmark.get("git_commit")
    rows = [
        (
            "benchmark",
            f"{benchmark['name']} {benchmark['version']}"
            + (f", commit {commit[:12]}{' and changed files' if benchmark.get('git_dirty') else ''}" if commit else ""),
        )
    ]
    rows += list(environment.get("versions", {}).items())
    return rows + list(environment.get("variables", {}).items())


def _ran(doc: Mapping[str, Any]) -> Rows:
    """What was read back from what ran, and what it was fed with."""
    weights, data, check = doc["weights"], doc["data"], doc["check"]
    rows = [(name, _shown(name, value)) for name, value in doc["effective"].items() if name != "details" and value is not None]
    if "parameters" in weights:
        rows.append(("weights", f"{weights['kind']}, {weights['parameters']:,} parameters"))
    if weights.get("sha256"):
        rows.append(("weights' SHA-256", weights["sha256"]))
    if data:
        cases = f", fold {data['fold']}, {len(data['cases'])} cases" if data.get("cases") else ""
        rows.append(("volumes", data["kind"] + cases))
    if check:
        rows.append(
            (
                "check against fp32",
                f"relative error {check['relative_error']:.2g} (limit {check['limit']}), labels "
                f"agree in {check['label_agreement']:.2%} of voxels",
            )
        )
    if doc["load_seconds"]:
        rows.append(("before timing", ", ".join(f"{name} {seconds:.3g} s" for name, seconds in doc["load_seconds"].items())))
    if doc["warm_up"].get("rule"):
        rows.append(("warm-up", doc["warm_up"]["rule"]))
    return rows + [
        (
            f"rank {rank.get('rank')}",
            ", ".join(
                f"{name.replace('_', ' ')} {_shown(name, value)}"
                for name, value in rank.items()
                if name != "rank" and isinstance(value, (int, float, str))
            ),
        )
        for rank in doc["ranks"]
    ]


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, (int, float)):
        return f"{value / 2**30:.1f} GiB"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(part) for part in value)
    return kinds.show(value)


def _fraction(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _regions(accuracy: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Region, mean Dice, and what else is known of it."""
    reference = accuracy.get("mlperf_reference") or {}
    rows = []
    for region, name in (*charts.NAMES.items(), ("total", "Mean of the three")):
        notes = []
        if undefined := accuracy["undefined"].get(region):
            notes.append(f"undefined in {undefined} of {len(accuracy['cases'])} cases, which are left out")
        if region in reference:
            notes.append(f"MLPerf's reference {reference[region]:.4f}")
        rows.append((name, _fraction(accuracy[region]), "; ".join(notes)))
    return rows


def _cases(accuracy: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [(name, [_fraction(scores[region]) for region in REGIONS]) for name, scores in accuracy["cases"].items()]


def _slices(accuracy: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    shown = []
    for case in slices.load(folder, accuracy["cases"]):
        scores = accuracy["cases"][case.name]
        pictures = []
        for modality, outlined in OUTLINED.items():
            data = slices.picture(case, modality, {region: REGIONS[region] for region in outlined}, OUTLINES)
            pictures.append(
                {
                    "caption": MODALITY_NAMES[modality],
                    "data": base64.b64encode(data).decode("ascii"),
                    "alt": f"{MODALITY_NAMES[modality]} slice {case.labels.z} of {case.name}, {' and '.join(outlined)} outlined",
                }
            )
        place = "Only case" if len(accuracy["cases"]) == 1 else PLACE_NAMES[case.place]
        shown.append(
            {
                "place": place,
                "name": case.name,
                "z": case.labels.z,
                "pictures": pictures,
                "scores": ", ".join(f"{region} {_fraction(scores[region])}" for region in REGIONS),
            }
        )
    return shown
