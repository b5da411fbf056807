"""What the paired benchmark found: a table of the contestants and one of the ratios, as JSON and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.ratios import ratio

from benchmarks.contestants import Contestant
from unet3d.commands.sweep.tables import others_cpu_share

Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]  # contestant's name -> round -> {"reason", "document"}


def seconds_per_volume(document: Mapping[str, Any]) -> list[float]:
    """Each call's seconds a volume; with several calls in flight the one figure of the whole window."""
    statistics, samples = document["statistics"], document["samples"]
    if int(document["settings"]["requested"]["streams"]) > 1:
        return [1 / statistics["throughput"]]
    return [latency / 1e3 / volumes for latency, volumes in zip(samples["latency_ms"], samples["volumes"], strict=True)]


def mean(document: Mapping[str, Any]) -> float:
    """Mean seconds a volume of one run."""
    return float(np.mean(seconds_per_volume(document)))


def document(taking_part: Sequence[Contestant], runs: Runs, absent: Mapping[str, str], rounds: int) -> dict[str, Any]:
    """Everything that was found: contestants with their figures, and the ratio of every peer to every one of ours."""
    measured = {
        one.name: {number: run["document"] for number, run in runs[one.name].items() if run["document"]} for one in taking_part
    }
    every = [found for by_round in measured.values() for found in by_round.values()]
    ours = [one.name for one in taking_part if one.ours and measured[one.name]]
    peers = [one.name for one in taking_part if not one.ours and measured[one.name]]
    pairs = [pair for first in ours for second in peers if (pair := _pair(first, second, measured))]
    return {
        "schema_version": 1,
        "rounds": rounds,
        "complete": all(len(runs[one.name]) == rounds for one in taking_part if one.name not in absent),
        "commits": sorted({str(found["benchmark"]["git_commit"]) for found in every}),
        "volumes": sorted({"×".join(map(str, found["volume"]["shape"])) for found in every}),
        "weights": sorted({str(found["weights"]["kind"]) for found in every}),
        "contestants": [_contestant(one, measured[one.name], runs[one.name], absent.get(one.name)) for one in taking_part],
        "ratios": pairs,
        "best": _best(ours, peers, measured, pairs),
    }


def _contestant(
    one: Contestant, found: Mapping[int, Mapping[str, Any]], runs: Mapping[int, Mapping[str, Any]], absent: str | None
) -> dict[str, Any]:
    reasons = [absent] if absent else list(dict.fromkeys(run["reason"] for run in runs.values() if run["reason"]))
    row: dict[str, Any] = {
        "name": one.name,
        "what": one.what,
        "ours": one.ours,
        "settings": list(one.settings),
        "rounds": len(found),
        "reason": "; ".join(reasons) or None,
    }
    if found:
        documents = list(found.values())
        seconds = [value for each in documents for value in seconds_per_volume(each)]
        check = documents[0]["check"] or {}
        row |= {
            "engine": documents[0]["effective"]["engine"],
            "seconds_per_volume": float(np.mean(seconds)),
            "lowest": min(seconds),
            "highest": max(seconds),
            "by_round": {number: mean(each) for number, each in found.items()},
            "tflop_per_s": documents[0]["volume"]["tflop"] / float(np.mean(seconds)),
            "others_cpu_share": max(
                (share for each in documents if (share := others_cpu_share(each)) is not None), default=None
            ),
            "peak_host_gib": max(each["memory"]["peak_host_bytes"] for each in documents) / 2**30,
            "relative_error": check.get("relative_error"),
            "label_agreement": check.get("label_agreement"),
        }
    return row


def _pair(first: str, second: str, measured: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Ratio of the second's time to the first's over the rounds that both finished."""
    both = sorted(measured[first].keys() & measured[second].keys())
    if not both:
        return None
    found = ratio(
        [seconds_per_volume(measured[first][number]) for number in both],
        [seconds_per_volume(measured[second][number]) for number in both],
    )
    return {"ours": first, "peer": second, "ratio": found.value, "low": found.low, "high": found.high, "rounds": found.rounds}


def _best(
    ours: Sequence[str],
    peers: Sequence[str],
    measured: Mapping[str, Mapping[int, Mapping[str, Any]]],
    pairs: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """The ratio of the fastest peer to our fastest."""

    def time(name: str) -> float:
        return math.fsum(mean(each) for each in measured[name].values()) / len(measured[name])

    if not ours or not peers:
        return None
    first, second = min(ours, key=time), min(peers, key=time)
    return next((dict(pair) for pair in pairs if (pair["ours"], pair["peer"]) == (first, second)), None)


def markdown(document: Mapping[str, Any]) -> str:
    """paired.md."""
    kind = "one volume in flight" if document["streams"] == 1 else f"{document['streams']} volumes in flight"
    lines = [
        f"{document['machine']}.",
        "",
        f"Volumes {', '.join(document['volumes'])}, {kind}, weights: {', '.join(document['weights'])}, "
        f"{document['rounds']} rounds, commit {', '.join(commit[:10] for commit in document['commits'])}.",
        "",
    ]
    if not document["complete"]:
        lines += ["Not finished: some runs have not been made yet.", ""]
    if len(document["commits"]) > 1:
        lines += ["The runs are of several commits: make them again with `--fresh` before using the ratios.", ""]
    lines += [
        "| Contestant | | s a volume | from–to | TFLOP/s | host GiB | error against fp32 | same labels | CPU taken by others |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["contestants"]:
        if row["rounds"]:
            cells = [
                f"{row['seconds_per_volume']:.2f}",
                f"{row['lowest']:.2f}–{row['highest']:.2f}",
                f"{row['tflop_per_s']:.2f}",
                f"{row['peak_host_gib']:.1f}",
                f"{row['relative_error']:.2g}",
                f"{row['label_agreement']:.2%}",
                "–" if row["others_cpu_share"] is None else f"{row['others_cpu_share']:.0%}",
            ]
            what = f"{row['engine']}: {row['what']}" + (f" (failed in some rounds: {row['reason']})" if row["reason"] else "")
        else:
            cells, what = ["–"] * 7, f"{row['what']}; not measured: {row['reason'] or 'not run yet'}"
        lines.append(f"| {row['name']} | {what.replace('|', '/')} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_ratio_table(document)])


def _ratio_table(document: Mapping[str, Any]) -> list[str]:
    pairs = {(pair["peer"], pair["ours"]): pair for pair in document["ratios"]}
    ours = list(dict.fromkeys(pair["ours"] for pair in document["ratios"]))
    if not ours:
        return []
    lines = [
        "How many times faster ours is, with a 95% bootstrap interval:",
        "",
        "| | " + " | ".join(ours) + " |",
        "| --- |" + " ---: |" * len(ours),
    ]
    for peer in dict.fromkeys(pair["peer"] for pair in document["ratios"]):
        cells = [_shown(pairs.get((peer, one))) for one in ours]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    best = document["best"]
    if best:
        lines += ["", f"Our fastest, {best['ours']}, against the fastest peer, {best['peer']}: {_shown(best)}."]
    return [*lines, ""]


def _shown(pair: Mapping[str, Any] | None) -> str:
    return "–" if pair is None else f"{pair['ratio']:.2f}× ({pair['low']:.2f}–{pair['high']:.2f})"
