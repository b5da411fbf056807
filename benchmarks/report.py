"""What the paired benchmark found: a table of the contestants and one of the ratios, as JSON and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.contestants import Contestant
from benchmarks.runs import Ended, several_commits
from unet3d.commands import escape
from unet3d.commands.compare.rows import energy
from unet3d.commands.sweep.tables import others_cpu_share
from unet3d.results.bootstrap import CONFIDENCE, ratio_of_rounds
from unet3d.results.schema import Results

Runs = Mapping[str, Mapping[int, Ended]]  # contestant's name -> round -> how it ended
Measured = Mapping[str, Mapping[int, Results]]  # those that have results
Row = dict[str, Any]  # of paired.json
# Of the volumes, by INPUT_ON_DEVICE; on a CPU there is one place.
PLACES = {"yes": ", volumes on the device", "no": ", volumes from the host", None: ""}


def seconds_per_volume(document: Results) -> list[float]:
    """Each call's seconds per volume; with several calls in flight the one figure of the whole window."""
    statistics, samples = document["statistics"], document["samples"]
    if statistics is not None and document["settings"]["requested"]["streams"] > 1:
        return [1 / statistics["throughput"]]
    return [latency / 1e3 / volumes for latency, volumes in zip(samples["latency_ms"], samples["volumes"], strict=True)]


def seconds(value: float) -> str:
    """For a table: to hundredths of a second, or of a millisecond where calls take less than a tenth of a second."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.5f}"


def mean(document: Results) -> float:
    """Mean seconds per volume of one run."""
    return float(np.mean(seconds_per_volume(document)))


def document(taking_part: Sequence[Contestant], runs: Runs, absent: Mapping[str, str], rounds: int) -> Row:
    """paired.json: contestants with their figures, and the ratio of every peer to every one of ours.

    absent: contestants that cannot run here, with the reason.
    """
    measured = {
        contestant.name: {number: run.document for number, run in runs[contestant.name].items() if run.document is not None}
        for contestant in taking_part
    }
    every = [results for by_round in measured.values() for results in by_round.values()]
    ours = [contestant.name for contestant in taking_part if contestant.ours and measured[contestant.name]]
    peers = [contestant.name for contestant in taking_part if not contestant.ours and measured[contestant.name]]
    pairs = [pair for first in ours for second in peers if (pair := _pair(first, second, measured))]
    expected = [contestant.name for contestant in taking_part if contestant.name not in absent]
    return {
        "schema_version": 1,
        "rounds": rounds,
        "complete": all(len(runs[name]) == rounds for name in expected),
        "commits": sorted({str(results["benchmark"]["git_commit"]) for results in every}),
        "volumes": sorted({"×".join(map(str, results["volume"]["shape"])) for results in every}),
        "weights": sorted({str(results["weights"]["kind"]) for results in every}),
        "confidence": CONFIDENCE,
        "contestants": [
            _contestant(contestant, measured[contestant.name], runs[contestant.name], absent.get(contestant.name))
            for contestant in taking_part
        ],
        "ratios": pairs,
        "best": _best(ours, peers, measured, pairs),
    }


def _contestant(contestant: Contestant, measured: Mapping[int, Results], runs: Mapping[int, Ended], absent: str | None) -> Row:
    reasons = [absent] if absent else list(dict.fromkeys(run.reason for run in runs.values() if run.reason))
    row: Row = {
        "name": contestant.name,
        "what": contestant.what,
        "ours": contestant.ours,
        "settings": list(contestant.settings),
        "rounds": len(measured),
        "reason": "; ".join(reasons) or None,
    }
    if measured:
        documents = list(measured.values())
        times = [value for results in documents for value in seconds_per_volume(results)]
        check = documents[0]["check"]
        device = [results["memory"]["peak_device_bytes"] or 0 for results in documents]
        row |= {
            "engine": documents[0]["effective"]["engine"],
            "seconds_per_volume": float(np.mean(times)),
            "lowest": min(times),
            "highest": max(times),
            "by_round": {number: mean(results) for number, results in measured.items()},
            "tflop_per_s": documents[0]["volume"]["tflop"] / float(np.mean(times)),
            "joules_per_volume": energy(documents)[0],
            "others_cpu_share": max(
                (share for results in documents if (share := others_cpu_share(results)) is not None), default=None
            ),
            "peak_host_gib": max(results["memory"]["peak_host_bytes"] for results in documents) / 2**30,
            "peak_device_gib": max(device) / 2**30 if any(device) else None,
            "relative_error": check and check["relative_error"],
            "label_agreement": check and check["label_agreement"],
        }
    return row


def _pair(first: str, second: str, measured: Measured) -> Row | None:
    """Ratio of the second's time to the first's over the rounds that both finished."""
    both = sorted(measured[first].keys() & measured[second].keys())
    if not both:
        return None
    ratio = ratio_of_rounds(
        [seconds_per_volume(measured[first][number]) for number in both],
        [seconds_per_volume(measured[second][number]) for number in both],
    )
    return {"ours": first, "peer": second, "ratio": ratio.value, "low": ratio.low, "high": ratio.high, "rounds": len(both)}


def _best(ours: Sequence[str], peers: Sequence[str], measured: Measured, pairs: Sequence[Row]) -> Row | None:
    """The ratio of the fastest peer to our fastest."""

    def time(name: str) -> float:
        return math.fsum(mean(results) for results in measured[name].values()) / len(measured[name])

    if not ours or not peers:
        return None
    first, second = min(ours, key=time), min(peers, key=time)
    return next((dict(pair) for pair in pairs if (pair["ours"], pair["peer"]) == (first, second)), None)


def markdown(document: Row) -> str:
    """paired.md."""
    kind = "one volume in flight" if document["streams"] == 1 else f"{document['streams']} volumes in flight"
    kind += PLACES[document.get("input_on_device")]
    lines = [
        f"{document['machine']}.",
        "",
        f"Volumes {', '.join(document['volumes'])}, {kind}, weights: {', '.join(document['weights'])}, "
        f"{document['rounds']} rounds, commit {', '.join(commit[:10] for commit in document['commits'])}.",
        "",
    ]
    if not document["complete"]:
        lines += ["Not finished: some runs have not been made yet.", ""]
    lines += several_commits(document["commits"], "ratios")
    memory = "device" if any(row.get("peak_device_gib") for row in document["contestants"]) else "host"
    lines += [
        f"| Contestant | | s per volume | from–to | TFLOP/s | J per volume | {memory} GiB | error against fp32 | same labels "
        "| CPU of others |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["contestants"]:
        if row["rounds"]:
            cells = [
                seconds(row["seconds_per_volume"]),
                f"{seconds(row['lowest'])}–{seconds(row['highest'])}",
                f"{row['tflop_per_s']:.{2 if row['tflop_per_s'] < 100 else 0}f}",
                _or_dash(row["joules_per_volume"], ".1f"),
                _or_dash(row[f"peak_{memory}_gib"], ".1f"),
                _or_dash(row["relative_error"], ".2g"),
                _or_dash(row["label_agreement"], ".2%"),
                _or_dash(row["others_cpu_share"], ".0%"),
            ]
            what = f"{row['engine']}: {row['what']}" + (f" (failed in some rounds: {row['reason']})" if row["reason"] else "")
        else:
            cells, what = ["–"] * 8, f"{row['what']}; not measured: {row['reason'] or 'not run yet'}"
        lines.append(f"| {row['name']} | {escape.markdown(what)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_ratio_table(document)])


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ratio_table(document: Row) -> list[str]:
    pairs = {(pair["peer"], pair["ours"]): pair for pair in document["ratios"]}
    ours = list(dict.fromkeys(pair["ours"] for pair in document["ratios"]))
    if not ours:
        return []
    lines = [
        f"How many times faster ours is, with a {document['confidence']:.0%} bootstrap interval:",
        "",
        "| | " + " | ".join(ours) + " |",
        "| --- |" + " ---: |" * len(ours),
    ]
    for peer in dict.fromkeys(pair["peer"] for pair in document["ratios"]):
        cells = [_shown(pairs.get((peer, name))) for name in ours]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    best = document["best"]
    if best:
        lines += ["", f"Our fastest, {best['ours']}, against the fastest peer, {best['peer']}: {_shown(best)}."]
    return [*lines, ""]


def _shown(pair: Row | None) -> str:
    return "–" if pair is None else f"{pair['ratio']:.2f}× ({pair['low']:.2f}–{pair['high']:.2f})"
