"""int8 of the CPU's layers as the engine tells it: ranges kept, the label by what computed; tiles are emulated here."""

import numpy as np
import pytest
import torch

from unet3d import places
from unet3d.brats import calibration, noise
from unet3d.devices.cpu import CpuDevice
from unet3d.engines.base import Request
from unet3d.engines.pytorch import int8
from unet3d.engines.pytorch.witness import Witness
from unet3d.network import quantization
from unet3d.network.cpu import CpuUNet
from unet3d.network.cpu_ops import build

pytestmark = pytest.mark.skipif(not build.available(), reason=build.status()[1])


@pytest.fixture
def request_of(tmp_path):
    def volumes():
        yield np.random.default_rng(1).standard_normal((4, 64, 32, 32), dtype=np.float32)

    return Request("torch", CpuDevice(), "int8", calibration=volumes, cache_dir=tmp_path)


def test_ranges_are_found_once_for_the_same_network_and_volumes(narrow_reference, request_of, monkeypatch):
    first, seconds = int8.ranges(narrow_reference, request_of)
    assert "calibrate" in seconds and len(first) == 21
    monkeypatch.setattr(quantization, "calibrate", lambda *_: pytest.fail("they are kept"))
    again, seconds = int8.ranges(narrow_reference, request_of)
    assert again == first and "calibrate" not in seconds


@pytest.mark.parametrize(("quantised", "label"), [(True, "int8"), (False, "bf16")])
def test_the_label_is_what_nearly_all_products_were_computed_in(narrow_reference, request_of, quantised, label):
    ranges = int8.ranges(narrow_reference, request_of)[0] if quantised else None
    network = CpuUNet.from_reference(narrow_reference, torch.bfloat16, ranges)
    witness = Witness(ipex_packed=False)
    with torch.inference_mode(), witness.watching():
        network(torch.randn(1, 4, 64, 32, 32))
    # The first convolution stays in bf16.
    assert set(witness.observed) == ({"int8", "bf16"} if quantised else {"bf16"})
    assert witness.precision() == label


def test_ranges_of_noise_suit_volumes_with_a_background_too(narrow_reference, tmp_path, monkeypatch):
    """Where most of a volume is background, what is not lies further from the mean: beyond ranges of noise alone."""
    shape = (64, 32, 32)
    monkeypatch.setattr(places, "SAMPLE_DATA", tmp_path)
    chosen = calibration.choose(shape, 1, 0, None, None)
    request = Request("torch", CpuDevice(), "int8", calibration=chosen.volumes, cache_dir=tmp_path / "cache")
    network = CpuUNet.from_reference(narrow_reference, torch.bfloat16, int8.ranges(narrow_reference, request)[0])
    for make in (noise.everywhere, noise.with_background):
        volume = torch.from_numpy(make(shape, np.random.default_rng(7)))[None]
        with torch.inference_mode():
            expected = narrow_reference(volume)
            error = (network(volume).float() - expected).norm() / expected.norm()
        assert error < 0.15, make.__name__
