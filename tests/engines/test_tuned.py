"""Where the forms of the GPU's convolutions come from: the card's own times, which are kept, else the table, else the safe
rule. Times are made up, but for one small network on Triton's interpreter and one on a GPU."""

import contextlib
import dataclasses
import json
import os
from types import SimpleNamespace

import making
import numpy as np
import pytest
import torch
from made_gpu import HostGpu
from making import plan_of
from marks import needs_cuda, skip_without_triton

from unet3d import caches
from unet3d.brats import weights
from unet3d.engines.base import Request
from unet3d.engines.pytorch.engine import TorchEngine
from unet3d.measure import prepare
from unet3d.network import reference
from unet3d.planning.group import SingleProcess
from unet3d.results.console import Console

pytest.importorskip("triton")

from unet3d.engines.pytorch import tuned
from unet3d.network import gpu_forms, gpu_tuning
from unet3d.network.cuda_ops import kernels
from unet3d.network.gpu_tuning import Timed
from unet3d.network.inference import InferenceUNet

SHAPE = (1, 4, 8, 8, 16)


class Card(HostGpu):
    """A GPU with a name and an architecture of its own."""

    def __init__(self, name="Fake 1", architecture="sm_89", units=20):
        super().__init__()
        self.told = (name, architecture, units)

    def properties(self):
        name, architecture, units = self.told
        return dataclasses.replace(super().properties(), name=name, architecture=architecture, compute_units=units)


@pytest.fixture(scope="module")
def small_reference():
    """nnU-Net's network with 16 to 32 channels and one pooling."""
    loaded = weights.random_weights(base_features=16, max_features=32, poolings=1)
    return reference.build(loaded.plans, loaded.state_dict)


@pytest.fixture(scope="module")
def small(small_reference):
    return InferenceUNet.from_reference(small_reference)


@pytest.fixture
def made_up(monkeypatch):
    """Times of forms that no device has measured; the convolutions that were timed."""
    asked = []

    def time_forms(geometry, dtype, device, clock, cuda):
        asked.append(geometry)
        able = gpu_forms.candidates(geometry, cuda)
        return Timed({form: float(len(able) - place) for place, form in enumerate(able)})

    monkeypatch.setattr(gpu_tuning, "time_forms", time_forms)
    return asked


def request(folder, card=None, **changes):
    values = {"engine": "torch", "precision": "fp16", "shape": SHAPE, "jit": "none", **changes}
    return Request(device=card or Card(), cache_dir=folder, **values)


def choose(small, asked):
    """The forms by layer, and what was chosen with all that is told of it."""
    dtype = torch.bfloat16 if asked.precision == "bf16" else torch.float16
    geometries = gpu_forms.geometries(small, asked.shape)
    chosen = tuned.choose(asked, geometries, dtype)
    return {name: chosen.choice.choose(geometry) for name, geometry in geometries.items()}, chosen


SAFE = {"encoder.0.0": "first"} | dict.fromkeys(
    ("encoder.0.1", "encoder.1.0", "encoder.1.1", "decoder.0.0", "decoder.0.1"), "library"
)
# The last of the forms that can compute each, which `made_up` makes the fastest.
FASTEST = dict.fromkeys(SAFE, "planes") | {"encoder.1.0": "library"}


def test_what_was_timed_is_kept_and_used(small, made_up, tmp_path):
    forms, first = choose(small, request(tmp_path, tune=True))
    assert forms == FASTEST and first.warnings == []
    assert first.choice.source.startswith("tuned on this card, 20") and set(first.seconds) == {"tune"}
    # encoder.0.1 and decoder.0.1 are the same convolution; the strided one has one form alone.
    assert len(made_up) == 4
    again, later = choose(small, request(tmp_path))
    assert (again, later.choice.source, later.warnings, later.seconds) == (FASTEST, first.choice.source, [], {})
    assert len(made_up) == 4
    choose(small, request(tmp_path, tune=True))  # measured anew, whatever is kept
    assert len(made_up) == 8 and len(list((tmp_path / "tuned-forms").iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"card": Card(name="Fake 2")},
        {"card": Card(architecture="sm_100")},
        {"card": Card(units=40)},  # one tile of a card, or both
        {"precision": "bf16"},
        {"shape": (2, *SHAPE[1:])},
        {"shape": (1, 4, 8, 16, 16)},
    ],
)
def test_what_was_timed_on_something_else_is_not_used(small, made_up, tmp_path, changes):
    choose(small, request(tmp_path, tune=True))
    forms, chosen = choose(small, request(tmp_path, **changes))
    architecture = changes.get("card", Card()).told[1]
    assert (forms, chosen.choice.source) == (SAFE, f"safe rule: nobody has measured {architecture}")
    assert [name for name, _ in chosen.warnings] == ["unmeasured-gpu"] and "--tune" in chosen.warnings[0][1]


@pytest.mark.parametrize("module", ["torch", "triton"])
def test_other_versions_time_anew(small, made_up, tmp_path, monkeypatch, module):
    choose(small, request(tmp_path, tune=True))
    monkeypatch.setattr(f"{module}.__version__", "99.0")
    assert choose(small, request(tmp_path))[0] == SAFE


@pytest.mark.parametrize("name", ["march.py", "walk.cu", "wgmma.cuh"])
def test_other_kernels_of_ours_time_anew(small, made_up, tmp_path, monkeypatch, name):
    choose(small, request(tmp_path, tune=True))
    read = type(tmp_path).read_bytes
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: read(path) + (b"//" if path.name == name else b""))
    assert choose(small, request(tmp_path))[0] == SAFE


def test_a_measured_architecture_is_as_the_table_says_and_warns_of_nothing(small, made_up, tmp_path):
    card = Card(architecture="sm_90")
    forms, chosen = choose(small, request(tmp_path, card))
    assert (chosen.choice.source, chosen.warnings) == ("measured table sm_90", [])
    by_table = gpu_forms.by_architecture("sm_90", kernels.why_not("sm_90") is None).choose
    assert forms == {name: by_table(geometry) for name, geometry in gpu_forms.geometries(small, SHAPE).items()}
    assert made_up == []
    choose(small, request(tmp_path, card, tune=True))
    assert choose(small, request(tmp_path, card))[1].choice.source.startswith("tuned on this card")


def rewritten(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


def with_times(ms):
    def write(text):
        document = json.loads(text)
        document["convolutions"][0]["ms"] = ms
        return json.dumps(document)

    return write


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda text: text[: len(text) // 2], "it is not JSON in UTF-8"),
        (lambda text: "", "it is not JSON in UTF-8"),
        (lambda text: "[]", "a part of it is missing or of another kind"),
        (lambda text: "null", "a part of it is missing or of another kind"),
        (lambda text: "[" * 100_000, "nested too deep"),
        (lambda text: " " * 2**21, "at most 1048576 are allowed"),
        (rewritten(of={"card": "another"}), "it is of another card or other software"),
        (rewritten(convolutions=[]), "it is of other convolutions"),
        (rewritten(convolutions=7), "a part of it is missing or of another kind"),
        (rewritten(date="yesterday"), "yesterday"),
        (rewritten(date=7), "a part of it is missing or of another kind"),
        (with_times({}), "times of no form"),
        (with_times([]), "times of no form"),
        (with_times({"cuda walk": 1.0}), "times of cuda walk, not of library, first, planes"),
        (with_times({"library": -1.0}), "-1.0 is no time of a form"),
        (with_times({"library": True}), "True is no time of a form"),
        (with_times({"library": "1"}), "1 is no time of a form"),
        (with_times({"library": 10**400}), "no time of a form"),
        (lambda text: text.replace("1.0", "NaN", 1), "NaN"),
    ],
)
def test_a_broken_or_foreign_file_is_told_in_one_line_and_not_used(small, made_up, tmp_path, damage, told):
    choose(small, request(tmp_path, tune=True))
    [file] = (tmp_path / "tuned-forms").iterdir()
    file.write_text(damage(file.read_text()))
    forms, chosen = choose(small, request(tmp_path))
    assert (forms, chosen.choice.source) == (SAFE, "safe rule: nobody has measured sm_89")
    assert [name for name, _ in chosen.warnings] == ["tuning-not-used", "unmeasured-gpu"]
    text = chosen.warnings[0][1]
    assert told in text and "\n" not in text and len(text) < 1000
    assert text.endswith("; used instead: safe rule: nobody has measured sm_89. Time the forms anew with --tune.")


def test_what_is_no_file_is_not_waited_for(small, made_up, tmp_path):
    choose(small, request(tmp_path, tune=True))
    [file] = (tmp_path / "tuned-forms").iterdir()
    file.unlink()
    os.mkfifo(file)
    assert "is a named pipe" in choose(small, request(tmp_path))[1].warnings[0][1]


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(small, made_up, tmp_path):
    (tmp_path / "tuned-forms").write_text("a file where a folder should be")
    forms, chosen = choose(small, request(tmp_path, tune=True))
    assert forms == FASTEST
    [(name, text)] = chosen.warnings
    assert name == "tuning-not-kept" and "File exists; set XDG_CACHE_HOME" in text


def test_forms_that_were_left_out_are_named_with_their_layers(small, tmp_path, monkeypatch):
    def time_forms(geometry, dtype, device, clock, cuda):
        return Timed({"library": 1.0}, {"planes": "RuntimeError: no room"})

    monkeypatch.setattr(gpu_tuning, "time_forms", time_forms)
    [(name, text)] = choose(small, request(tmp_path, tune=True))[1].warnings
    layers = ", ".join(name for name, form in FASTEST.items() if form == "planes")
    assert (name, text) == ("forms-left-out", f"forms that were not timed: planes in {layers}: RuntimeError: no room.")


def test_nothing_is_chosen_in_fp32(small, made_up, tmp_path):
    _, chosen = choose(small, request(tmp_path, precision="fp32"))
    assert (chosen.choice.source, chosen.warnings) == ("in fp32 every product is the library's", [])


def test_what_is_kept_can_be_cleared(small, made_up, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose(small, request(caches.folder(), tune=True))
    assert len(caches.entries("tuned-forms")) == 1


def test_a_run_says_where_its_forms_come_from(monkeypatch, capsys):
    plan = plan_of(precision="fp32", jit="none")
    ran = making.effective(details={"convolution_forms_from": "tuned on this card, 2026-11-24"})
    monkeypatch.setattr(prepare.registry, "create", lambda _: SimpleNamespace(load=lambda _: None, effective=lambda: ran))
    monkeypatch.setattr(prepare.against_fp32, "check", lambda *_: making.agreement())
    monkeypatch.setattr(prepare, "must_match", lambda *_: None)
    prepare.load_engine(plan, None, Console(), SingleProcess())
    assert "forms of the convolutions: tuned on this card, 2026-11-24" in capsys.readouterr().out


def error_of(engine, network, shape):
    volume = np.random.default_rng(2).standard_normal(shape, dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(volume)).numpy()
    return np.linalg.norm(engine.compare(volume) - expected) / np.linalg.norm(expected)


def test_a_small_network_is_tuned_and_runs(small_reference, monkeypatch, tmp_path):
    skip_without_triton()
    for name in ("CALLS", "CALLS_BEFORE", "ROUNDS", "LEAST_ROUNDS"):
        monkeypatch.setattr(gpu_tuning, name, 1)
    monkeypatch.setattr(gpu_tuning, "WARM_S", 0)
    engine = TorchEngine(request(tmp_path, tune=True))
    # PyTorch without CUDA has no autocast for it; the form holds its weights in the precision.
    monkeypatch.setattr(engine, "_autocast", contextlib.nullcontext)
    engine.load(small_reference)
    assert error_of(engine, small_reference, SHAPE) < 0.01
    details = engine.effective().details
    assert details["convolution_forms_from"].startswith("tuned on this card, 20") and engine.load_seconds["tune"] > 0
    assert set(details["convolution_forms"]) == {*SAFE, "upsamplings.0"}
    [file] = (tmp_path / "tuned-forms").iterdir()
    rows = json.loads(file.read_text())["convolutions"]
    assert all(set(row["ms"]) >= {"library", "planes"} and not row["left_out"] for row in rows)
    later = TorchEngine(request(tmp_path))
    later.load(small_reference)
    assert later._form.convolutions() == details["convolution_forms"]
    assert later._form.chosen_by == details["convolution_forms_from"] and "tune" not in later.load_seconds


@needs_cuda
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_real_card_is_tuned_and_runs(precision, tmp_path):
    from unet3d.devices.cuda import CudaDevice

    card, shape = CudaDevice(0), (1, 4, 64, 64, 64)
    if precision == "int8" and (why := kernels.why_not(card.properties().architecture)):
        pytest.skip(f"int8 needs our CUDA kernels, and {why}")
    loaded = weights.random_weights(base_features=32, max_features=128, poolings=3)
    network = reference.build(loaded.plans, loaded.state_dict)
    noise = np.random.default_rng(3).standard_normal(shape[1:], dtype=np.float32)
    asked = request(tmp_path, card, precision=precision, shape=shape, jit="trace", calibration=lambda: iter([noise]))
    engine = TorchEngine(dataclasses.replace(asked, tune=True))
    engine.load(network)
    assert error_of(engine, network, shape) < {"fp16": 0.01, "bf16": 0.06, "int8": 0.3}[precision]
    told = engine.effective().details
    assert told["convolution_forms_from"].startswith("tuned on this card, 20") and engine.load_seconds["tune"] > 0
    [file] = (tmp_path / "tuned-forms").iterdir()
    rows = json.loads(file.read_text())["convolutions"]
    # A card may have no room for a form, but no form may be wrong on it.
    assert rows and all("library" in row["ms"] for row in rows)
    assert not [row for row in rows if "differs" in str(row["left_out"])]
    later = TorchEngine(asked)
    later.load(network)
    assert later._form.convolutions() == told["convolution_forms"]
    assert not {"unmeasured-gpu", "tuning-not-used"} & set(dict(later.warnings))
