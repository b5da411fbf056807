#!/usr/bin/env python3
"""Times the network on a GPU, ours beside nnU-Net's own, each row a run of predict.py in a fresh process.

    .venv/bin/python benchmarks/gpu.py

What a row is called, its figures, its energy and its error against fp32 are what the run's results.json says. nnU-Net's
module runs in channels_last_3d, as the benchmark runs it. What is there is kept: the same command goes on where it was
stopped. Settings that all share come from the environment (WEIGHTS, THREADS, …). Writes gpu.json and gpu.md;
benchmarks/gpu_layers.py times single convolutions.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import contestants, runs  # noqa: E402 - found by the path set above
from benchmarks.contestants import Contestant  # noqa: E402
from unet3d import json_files  # noqa: E402
from unet3d.commands import escape  # noqa: E402
from unet3d.commands.arguments import OneLineParser  # noqa: E402
from unet3d.commands.compare.rows import energy  # noqa: E402
from unet3d.commands.sweep import tables  # noqa: E402
from unet3d.config import kinds, parse  # noqa: E402
from unet3d.devices import host, platforms  # noqa: E402
from unet3d.devices.base import Device  # noqa: E402
from unet3d.errors import UserErrors  # noqa: E402
from unet3d.files import prepare_folder, write_atomically  # noqa: E402
from unet3d.results.schema import Results  # noqa: E402

PLACES = {"yes": "on device", "no": "from host"}  # of the volumes, by INPUT_ON_DEVICE

Row = dict[str, Any]  # of gpu.json


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are missing and write the table; 0 when all could be made, 1 when some failed, 2 for bad input."""
    return runs.guarded(lambda: _benchmark(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def several(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def batches(text: str) -> tuple[int, ...]:
        return tuple(runs.count(part) for part in several(text))

    parser = OneLineParser(prog="benchmarks/gpu.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--platform", help="CUDA, Flex, Max, or CPU to try this out; default: what is there")
    parser.add_argument("--shape", help="VOLUME_SHAPE, such as 224,224,160")
    parser.add_argument("--batches", type=batches, default=(1, 2), help="volumes in a call (1,2)")
    parser.add_argument("--precisions", type=several, default=("fp16", "bf16", "int8"), help="(fp16,bf16,int8)")
    parser.add_argument("--inputs", type=several, default=tuple(PLACES), help="INPUT_ON_DEVICE (yes,no)")
    parser.add_argument("--iterations", type=runs.count, default=300, help="timed calls of each run (300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the volumes (0)")
    parser.add_argument("--only", help="contestants that take part, by name, separated by commas")
    parser.add_argument(
        "--time-limit", type=runs.minutes, default=runs.GPU_MINUTES, metavar="MINUTES", help="of each run (%(default)s)"
    )
    parser.add_argument("--output", type=Path, default=Path("output_gpu"), help="folder of runs, gpu.json and gpu.md")
    parser.add_argument("--fresh", action="store_true", help="make all runs again")
    return parser.parse_args(argv)


def _benchmark(arguments: argparse.Namespace) -> int:
    words = ["--num-iterations", str(arguments.iterations), "--seed", str(arguments.seed)]
    words += ["--volume-shape", arguments.shape] if arguments.shape else []
    words += ["--platform", arguments.platform] if arguments.platform else []
    given, problems = parse.parse(words, os.environ)
    taking_part = contestants.chosen(contestants.on_gpu(arguments.precisions), arguments.only, problems)
    problems += [f"--inputs: {text!r} is not allowed; use yes, no" for text in arguments.inputs if text not in PLACES]
    if problems:
        raise UserErrors(problems)
    device, platform, _ = platforms.select(cast(str | None, given["platform"].value))
    words = [*words, "--platform", platform] if not arguments.platform else words
    prepare_folder(arguments.output, "--output")
    absent = [
        {"name": contestant.name, "reason": reason}
        for contestant in taking_part
        if (reason := contestants.why_not(contestant, words, os.environ)) is not None
    ]
    names = {left_out["name"] for left_out in absent}
    rows: list[Row] = []
    document: Row = {}
    points = itertools.product(taking_part, arguments.batches, arguments.inputs)
    for contestant, batch, on_device in points:
        if contestant.name in names:
            continue
        command = [*words, *contestant.settings, "--batch-size", str(batch), "--input-on-device", on_device]
        place = arguments.output / f"{contestant.name}-batch-{batch}-{PLACES[on_device].replace(' ', '-')}"
        ended = None if arguments.fresh else runs.earlier(place, command, arguments.time_limit)
        ended = ended or runs.make(contestant, command, place, arguments.time_limit)
        rows.append(row(contestant, place.name, batch, on_device, ended))
        print(table(rows[-1:])[-1], flush=True)
        document = _write(arguments.output, device, words, rows, absent)
    document = document or _write(arguments.output, device, words, rows, absent)
    print(markdown(document))
    return 1 if not rows or any(made["reason"] for made in rows) else 0


def label(document: Results) -> str:
    """What ran, in the words of its results.json: whose network, other software than PyTorch or JIT, memory layout, graph."""
    effective = document["effective"]
    graph = str(effective["details"].get("graph", "none"))
    by_pytorch = effective["engine"].startswith("torch ")
    eager = "eager" if by_pytorch else effective["engine"]
    parts = [
        "nnU-Net" if effective["network"] == "reference" else "ours",
        eager if effective["jit"] == "none" else f"JIT={effective['jit']}",
        effective["layout"],
        "" if graph.startswith("none") else graph,
    ]
    return ", ".join(part for part in parts if part)


def row(contestant: Contestant, folder: str, batch: int, on_device: str, ended: runs.Ended) -> Row:
    """A row of gpu.json: figures of the run's results.json, under the names that a sweep's table has for them."""
    results = ended.document
    if results is None:
        asked = {"batch": batch, "input_on_device": on_device == "yes", "precision": contestant.settings[3]}
        return {"contestant": contestant.name, "variant": contestant.what, "reason": ended.reason, **asked}
    requested, telemetry = results["settings"]["requested"], results.get("telemetry")
    return {
        "contestant": contestant.name,
        "variant": ", ".join([label(results), *(f"{name}={value}" for name, value in contestant.environment.items())]),
        "reason": None,
        "batch": requested["batch_size"],
        "input_on_device": requested["input_on_device"],
        **tables.figures(results),
        "joules_per_volume": energy([results])[0],
        "summary": telemetry and telemetry["summary"],
        "effective": results["effective"],
        "load_seconds": results["load_seconds"],
        "commit": results["benchmark"]["git_commit"],
        "volume": results["volume"]["shape"],
        "weights": results["weights"]["kind"],
        "results": f"{folder}/results.json",
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: head, rule and the rows in the order in which they ran."""
    lines = [
        "| Variant | Precision | Batch | Volumes | Volumes/s | Latency median, p90 (ms) | J/volume | GiB | Error to fp32 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for made in rows:
        start = f"| {made['variant']} | {made['precision']} | {made['batch']} | {PLACES[kinds.show(made['input_on_device'])]} |"
        if made["reason"] is not None:
            lines.append(f"{start} failed: {escape.markdown(made['reason'])} | | | | |")
            continue
        memory = made["peak_device_gib"] if made["peak_device_gib"] is not None else made["peak_host_gib"]
        lines.append(
            f"{start} {made['throughput_img_per_s']:.3g} | {made['latency_p50_ms']:.2f}, {made['latency_p90_ms']:.2f} | "
            f"{'n/a' if made['joules_per_volume'] is None else format(made['joules_per_volume'], '.1f')} | "
            f"{memory:.1f} | {made['relative_error']:.1e} |"
        )
    return lines


def markdown(document: Row) -> str:
    """gpu.md."""
    volumes, weights = ", ".join(document["volumes"]) or "none", ", ".join(document["weights"]) or "none"
    lines = [f"{document['machine']}; volumes: {volumes}, weights: {weights}.", ""]
    lines += runs.several_commits(document["commits"], "figures")
    lines += table(document["rows"])
    lines += [""] + [f"Not measured: {names}: {reason}" for reason, names in tables.by_reason(document["left_out"]).items()]
    return "\n".join(lines).rstrip() + "\n"


def _write(folder: Path, device: Device, words: Sequence[str], rows: Sequence[Row], absent: Sequence[Mapping[str, str]]) -> Row:
    """Write gpu.json and gpu.md of what there is; returns what gpu.json holds."""
    properties, versions = device.properties(), host.versions()
    software = [f"{name} {versions[name]}" for name in ("torch", "cuDNN", "triton") if name in versions]
    measured = [made for made in rows if made["reason"] is None]
    document: Row = {
        "schema_version": 1,
        "machine": ", ".join([properties.name, f"driver {properties.driver or 'unknown'}", *software]),
        "hardware": host.hardware(),
        "versions": versions,
        "shared_settings": list(words),
        "commits": sorted({str(made["commit"]) for made in measured}),
        "volumes": sorted({"×".join(map(str, made["volume"])) for made in measured}),
        "weights": sorted({str(made["weights"]) for made in measured}),
        "rows": list(rows),
        "left_out": list(absent),
    }
    json_files.write(folder / "gpu.json", document)
    write_atomically(folder / "gpu.md", markdown(document))
    return document


if __name__ == "__main__":
    sys.exit(main())
