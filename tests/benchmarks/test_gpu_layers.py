"""gpu_layers.py: a row for each form of each convolution, with made-up times."""

import re

import pytest
from made_gpu import HostGpu

from benchmarks import gpu_layers

pytest.importorskip("triton")

from unet3d.devices import registry
from unet3d.network import flops, gpu, gpu_forms, gpu_tuning
from unet3d.network.gpu_tuning import Timed
from unet3d.network.plans import random_plans


@pytest.fixture
def printed(monkeypatch, capsys):
    """The table of a GPU on which every call takes 2 ms, and what has no table."""

    def time_forms(geometry, dtype, device, clock, cuda):
        able = gpu_forms.candidates(geometry, cuda)
        left_out = {"march": "RuntimeError: no room"} if "march" in able else {}
        return Timed({form: 2.0 for form in able if form not in left_out}, left_out)

    monkeypatch.setattr(registry, "open_device", lambda kind: HostGpu())
    monkeypatch.setattr(gpu_tuning, "time_forms", time_forms)
    monkeypatch.setattr(gpu_tuning, "output_of", lambda call, device: None)
    monkeypatch.setattr(gpu_tuning.Clock, "seconds", lambda self, call: 0.002)
    own = gpu.CHUNK
    assert gpu_layers.main(["--device", "cuda", "--shape", "64,32,32", "--precisions", "fp16"]) == 0
    assert own == gpu.CHUNK
    return capsys.readouterr().out


def test_every_form_of_each_convolution_has_a_row(printed):
    rows = re.findall(r"^\| (.* fp16) \| (.*): (.*) \| (.*) \|$", printed, re.MULTILINE)
    of_first = [form for name, form, *_ in rows if name == "4 to 32 at 64x32x32 fp16"]
    assert of_first == ["library", "first*", "planes", *(f"planes, chunks of {chunk}" for chunk in gpu_layers.CHUNKS)]
    assert "| 32 to 32 at 64x32x32 fp16 | march: RuntimeError: no room | |\n" in printed
    assert [form for name, form, *_ in rows if name == "64 to 128 at 32x16x16 with stride 2x2x2 fp16"] == ["library*"]
    assert printed.startswith("Chosen (*) without TUNE: safe rule: nobody has measured this kind of GPU\n")


def test_rates_are_of_the_layers_flop(printed):
    """The last decoder's first convolution, and the upsampling that is timed with it."""
    layers = {layer.name: layer.flop for layer in flops.layers(random_plans(), (1, 4, 64, 32, 32))}
    [(_, rate)] = re.findall(r"^\| (64 to 32 .*) fp16 \| library\*: 2.000 \| (.*) \|$", printed, re.MULTILINE)
    wanted = layers["tu.4"] + layers["conv_blocks_localization.4.0.blocks.0.conv"]
    assert float(rate) == round(wanted / 2e-3 / 1e12)


def test_other_precisions_are_refused(capsys):
    assert gpu_layers.main(["--precisions", "fp16,int8"]) == 2
    assert "'int8' is not allowed; use fp16 or bf16" in capsys.readouterr().err
