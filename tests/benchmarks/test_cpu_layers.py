"""The benchmark of the CPU's layers, on a narrow network and a small volume."""

import math

import pytest

from benchmarks import cpu_layers
from unet3d.brats import weights
from unet3d.devices.ceilings import Rate
from unet3d.network.cpu_ops import build, peak

needs_operators = pytest.mark.skipif(not build.available(), reason=build.status()[1])


@needs_operators
def test_every_layer_is_paired_and_the_network_timed_in_each_precision(monkeypatch, capsys):
    narrow = weights.random_weights(base_features=8, max_features=16)
    monkeypatch.setattr(weights, "random_weights", lambda: narrow)
    monkeypatch.setattr(peak, "best", lambda products, threads: Rate(products, 0.5, "a loop") if products != "int8" else None)
    assert cpu_layers.main(["--precisions", "fp32,int8", "--shape", "64,32,32", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith(("| encoder", "| decoder", "| ups"))]
    assert len(rows) == 2 * 27
    assert sum("int8 products" in row[2] for row in rows) == 21
    # 8 channels are computed as 32 and told as such: 2 * 27 * 32 * 32 * 65536 FLOP in the time that stands beside them.
    [row] = [row for row in rows if row[0].startswith(" encoder.0.1 32->32") and "int8" in row[2]]
    assert float(row[6]) == pytest.approx(2 * 27 * 32**2 * 65536 / float(row[3].split()[0]) / 1e9, rel=0.1)
    # Without a ceiling there is no share; where there is one it is of what a form multiplies, not of the nominal products.
    assert all(row[7].strip().endswith("%") == ("int8" not in row[2]) for row in rows)
    [winograd] = [row for row in rows if row[0].startswith(" encoder.0.1 32->32") and "winograd" in row[2]]
    tiles = math.prod(-(-extent // edge) for extent, edge in zip((64, 32, 32), (4, 6, 6), strict=True))
    executed = 2 * 6 * 8**2 * tiles * 32**2 / float(winograd[3].split()[0]) / 1e9
    assert float(winograd[7].strip(" %")) == pytest.approx(100 * executed / 0.5, abs=1, rel=0.1)
    assert [line.split(":")[0] for line in out.splitlines() if "fastest" in line] == [
        "fused layers, fp32",
        "fused layers, int8",
        "PyTorch's operators, fp32",
    ]


def test_unknown_precisions_are_refused_in_one_line(capsys):
    assert cpu_layers.main(["--precisions", "bf16,fp16"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "'fp16' is not allowed; use bf16, fp32 or int8" in line
