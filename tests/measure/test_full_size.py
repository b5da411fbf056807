"""The check at full size: what is wrong only there is found, and fp32's values are computed once."""

import io
import json
import weakref
from copy import deepcopy

import numpy as np
import pytest
import torch
from made_results import results
from making import agreement, effective, plan_of, settings_of

import unet3d
from unet3d import cli
from unet3d.brats import noise
from unet3d.brats.volumes import RandomVolumes
from unet3d.config.precisions import PRECISIONS
from unet3d.devices import host
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.errors import MismatchError
from unet3d.measure import against_fp32, full_size, prepare
from unet3d.network.inference import InferenceUNet
from unet3d.planning.group import SingleProcess
from unet3d.results.console import Console
from unet3d.results.report import tables

FULL = (96, 64, 64)  # of these tests: larger than the volume of the check before


class WrongWhenLarge:
    """An engine whose normalisation adds up in a way that is off by a share of the deviation, but only in large volumes."""

    def __init__(self, reference, off, precision="fp32", batch=1, rounded=0.0):
        self.request = Request("made", CpuDevice(), precision, shape=(batch, 4, *FULL))
        self._right, self._wrong = (InferenceUNet.from_reference(reference) for _ in range(2))
        for block in self._wrong.encoder[0]:
            block.bias += off * block.weight
        self._rounded = rounded

    def stage(self, volumes):
        return torch.from_numpy(volumes.copy())

    def infer(self, staged):
        large = staged[0, 0].numel() > np.prod(against_fp32.SHAPE[2:])
        with torch.inference_mode():
            return (self._wrong if large else self._right)(staged)

    def logits(self, output):
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        return (output + self._rounded * output.std() * noise).numpy()

    def compare(self, volumes):
        return self.logits(self.infer(self.stage(volumes)))


@pytest.fixture(scope="module")
def expected(narrow_reference, tmp_path_factory):
    return full_size.expected(narrow_reference, FULL, tmp_path_factory.mktemp("cache"))


def test_values_are_nnunets_own(narrow_reference, expected):
    with torch.inference_mode():
        logits = narrow_reference(torch.from_numpy(full_size.volume(FULL)))[0].flatten(1).numpy()
    found = logits[:, full_size.voxels(FULL)].T
    assert np.linalg.norm(found - expected.logits) < 1e-4 * np.linalg.norm(expected.logits)


def test_most_of_the_volume_is_a_constant_background():
    volume = full_size.volume(FULL)
    assert 0.7 < (volume == 0).mean() < 0.9
    inside = noise.inside(FULL).reshape(-1)[full_size.voxels(FULL)]
    assert 0.5 < inside.mean() < 0.7


def test_a_normalisation_that_is_off_by_2_percent_at_full_size_stops_the_run(narrow_reference, expected):
    wrong = WrongWhenLarge(narrow_reference, off=0.02)
    small = against_fp32.check(wrong, narrow_reference, seed=0)
    assert small.relative_error < small.limit
    with pytest.raises(MismatchError, match=r"at full size.*differs from fp32 by 0\.0\d+ .*FULL_SIZE_CHECK=no"):
        full_size.check(wrong, expected, small)


def test_a_right_engine_passes_in_every_sample_of_its_batch(narrow_reference, expected):
    right = WrongWhenLarge(narrow_reference, off=0.0, batch=2)
    found, warnings = full_size.check(right, expected, against_fp32.check(right, narrow_reference, seed=0))
    assert found.relative_error < 1e-4 and found.shape == (2, 4, *FULL) and warnings == []


def test_rounding_is_told_from_an_error_that_grows_with_the_volume(narrow_reference, expected):
    """An error that bf16 would explain somewhere, but not in this network, whose small volume is far nearer to fp32."""
    for off, names in ((0.0, []), (0.1, ["full-size-error"])):
        made = WrongWhenLarge(narrow_reference, off, "bf16", rounded=0.003)
        small = against_fp32.check(made, narrow_reference, seed=0)
        found, warnings = full_size.check(made, expected, small)
        assert [warning.name for warning in warnings] == names
        assert found.relative_error < PRECISIONS["bf16"].error_limit


def test_an_error_that_int8_has_on_other_volumes_is_not_warned_of(narrow_reference, expected):
    for rounded, names in ((0.03, []), (0.1, ["full-size-error"])):
        made = WrongWhenLarge(narrow_reference, 0.0, "int8", rounded=rounded)
        found, warnings = full_size.check(made, expected, agreement())
        assert [warning.name for warning in warnings] == names
        assert 0.5 * rounded < found.relative_error < 1.5 * rounded


def test_nan_at_full_size_stops_the_run(narrow_reference, expected):
    with pytest.raises(MismatchError, match="nothing was timed"):
        full_size.check(WrongWhenLarge(narrow_reference, float("nan")), expected, agreement())


class Counting(WrongWhenLarge):
    """Knows how many staged volumes are alive at each inference."""

    def __init__(self, reference):
        super().__init__(reference, off=0.0)
        self.load_seconds, self.warnings, self._staged, self.alive = {}, [], weakref.WeakSet(), []

    def stage(self, volumes):
        staged = super().stage(volumes)
        self._staged.add(staged)
        return staged

    def infer(self, staged):
        self.alive.append(len(self._staged))
        return super().infer(staged)

    compile = infer


def test_no_other_volume_is_staged_beside_the_one_that_is_compared(narrow_reference, expected):
    engine = Counting(narrow_reference)
    plan = plan_of(dummy="yes", volume_shape="96,64,64", warm_up=1)
    checked = prepare.Checked(engine, agreement(), effective(), ())
    prepare.warm_up(plan, checked, RandomVolumes(1, FULL, 0), Console(stream=io.StringIO()), SingleProcess(), expected)
    assert engine.alive == [1, 1, 1]  # compiled, compared, warmed up


def test_values_are_computed_once_for_the_same_weights_and_shape(narrow_reference, expected, tmp_path, monkeypatch):
    first = full_size.expected(narrow_reference, FULL, tmp_path)
    made = []
    monkeypatch.setattr(InferenceUNet, "forward", lambda self, x: made.append(x) or torch.zeros(1, 4, *x.shape[2:]))
    assert np.array_equal(full_size.expected(narrow_reference, FULL, tmp_path).logits, first.logits) and not made
    other = deepcopy(narrow_reference)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    full_size.expected(other, FULL, tmp_path)
    full_size.expected(narrow_reference, (64, 96, 64), tmp_path)
    assert len(made) == 2
    # A file that is damaged is made again.
    for file in tmp_path.rglob(full_size.FILE):
        file.write_bytes(b"")
    full_size.expected(narrow_reference, FULL, tmp_path)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("asked", "applies"),
    [
        ({}, True),
        ({"volume_shape": "96,64,64"}, True),
        ({"volume_shape": "64,64,64"}, False),
        ({"volume_shape": "96,64,64", "full_size_check": "no"}, False),
    ],
)
def test_when_there_is_something_to_check(asked, applies):
    assert full_size.applies(settings_of(**asked)) == applies


def test_too_little_memory_is_told(narrow_reference, monkeypatch):
    monkeypatch.setattr(host, "available_memory", lambda: 2**20)
    plan = plan_of(volume_shape="96,64,64")
    facts = prepare.WeightsFacts("random", None, None, 8, 1)
    network = prepare.Network(narrow_reference, facts, 1.0)
    found, [warning] = prepare.expect_full_size(plan, network, SingleProcess())
    assert found is None and warning.name == "no-full-size-check" and "0.0 GiB are free" in warning.message


def test_a_run_checks_itself_unless_told_otherwise(tmp_path, monkeypatch, capsys):
    small = {"platform": "CPU", "precision": "fp32", "jit": "none", "weights": "sample", "warm_up": 0, "num_iterations": 1}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checked = unet3d.run(output_dir=tmp_path / "a", volume_shape=FULL, **small)
    assert list((tmp_path / "cache" / "unet3d" / full_size.KIND).iterdir())
    document = json.loads((tmp_path / "a" / "results.json").read_text())
    found = document["full_size_check"]
    assert found["relative_error"] < 1e-3 and found["shape"] == [1, 4, *FULL]
    assert checked.settings.full_size_check
    code = cli.main(
        [
            *(part for name, value in small.items() for part in (f"--{name.replace('_', '-')}", str(value))),
            *("--volume-shape", ",".join(map(str, FULL)), "--output-dir", str(tmp_path / "b"), "--full-size-check", "no"),
        ]
    )
    assert code == 0
    assert "full_size_check" not in json.loads((tmp_path / "b" / "results.json").read_text())


def test_results_tell_it_and_older_ones_are_read():
    doc = results()
    assert "full_size_check" not in doc and not [name for name, _ in tables.ran(doc) if "full size" in name]
    doc["full_size_check"] = {**doc["check"], "relative_error": 0.01}
    [row] = [text for name, text in tables.ran(doc) if "full size" in name]
    assert "relative error 0.01" in row
