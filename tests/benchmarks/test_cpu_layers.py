"""The benchmark of the CPU's layers, on a narrow network and a small volume."""

import pytest

from benchmarks import cpu_layers
from unet3d.brats import weights
from unet3d.devices import ceilings
from unet3d.network.cpu_ops import build

needs_operators = pytest.mark.skipif(not build.available(), reason=build.status()[1])


@needs_operators
def test_every_layer_is_paired_and_the_network_timed_in_each_precision(monkeypatch, capsys):
    narrow = weights.random_weights(base_features=8, max_features=16)
    monkeypatch.setattr(weights, "random_weights", lambda: narrow)
    rates = ceilings.Ceilings("cpu", "bf16", 1, 0.5, 10.0, "matrix product")
    monkeypatch.setattr(ceilings, "measure", lambda *_: rates)
    assert cpu_layers.main(["--precisions", "bf16,int8", "--shape", "64,32,32", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith(("| encoder", "| decoder", "| ups"))]
    assert len(rows) == 2 * 27
    assert sum("int8 products" in row[2] for row in rows) == 21
    # 8 channels are computed as 32 and told as such: 2 * 27 * 32 * 32 * 65536 FLOP in the time that stands beside them.
    [row] = [row for row in rows if row[0].startswith(" encoder.0.1 32->32") and "int8" in row[2]]
    assert float(row[6]) == pytest.approx(2 * 27 * 32**2 * 65536 / float(row[3].split()[0]) / 1e9, rel=0.1)
    assert [line.split(":")[0] for line in out.splitlines() if "fastest" in line] == [
        "fused layers, bf16",
        "fused layers, int8",
        "PyTorch's operators, bf16",
    ]


def test_unknown_precisions_are_refused_in_one_line(capsys):
    assert cpu_layers.main(["--precisions", "bf16,fp16"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "'fp16' is not allowed; use bf16, fp32 or int8" in line
