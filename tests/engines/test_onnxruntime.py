"""The ONNX Runtime engine against nnU-Net's own module in fp32, on small volumes and a narrow network."""

import making
import numpy as np
import pytest
import torch

from unet3d.devices.registry import open_device
from unet3d.engines.base import Request
from unet3d.engines.registry import create
from unet3d.errors import UserErrors

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -r requirements-onnxruntime.txt")
pytest.importorskip("onnx", reason="onnx is not installed: pip install -r requirements-onnxruntime.txt")


def ask(cache_dir, **settings):
    given = {"engine": "onnxruntime", "device": open_device("cpu"), "precision": "fp32", "threads": 2, "cache_dir": cache_dir}
    return Request(**(given | settings))


@pytest.mark.parametrize("batch", [1, 2])
def test_fp32_equals_nnunet(narrow_reference, tmp_path_factory, batch):
    engine = create(ask(tmp_path_factory.getbasetemp() / "exports"))
    engine.load(narrow_reference)
    x = np.random.default_rng(5).standard_normal((batch, 4, 32, 32, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = narrow_reference(torch.from_numpy(x)).numpy()
    assert np.abs(engine.compare(x) - expected).max() < 1e-5 * np.abs(expected).max()
    effective = engine.effective()
    assert (effective.precision, effective.device, effective.network) == ("fp32", "cpu", "reference")


def test_a_stream_is_a_session_with_its_share_of_threads(narrow_reference, tmp_path_factory):
    engine = create(ask(tmp_path_factory.getbasetemp() / "exports", streams=2))
    engine.load(narrow_reference)
    assert engine.effective().details["threads_per_stream"] == 1
    x = np.zeros((1, 4, 32, 32, 32), dtype=np.float32)
    engine.compile(engine.stage(x))
    np.testing.assert_array_equal(engine.compare(x), engine.compare(x))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "bf16"}, "PRECISION=bf16 with ENGINE=onnxruntime is not possible.*use PRECISION=fp32"),
        ({"jit": "trace"}, "JIT=trace with ENGINE=onnxruntime"),
    ],
)
def test_refuses_up_front(tmp_path, settings, reason):
    with pytest.raises(UserErrors, match=reason):
        create(ask(tmp_path, **settings))


def test_its_one_precision_is_the_default_and_others_are_refused_with_the_settings():
    assert making.settings_of(engine="onnxruntime").precision == "fp32"
    with pytest.raises(UserErrors, match="use PRECISION=fp32 or ENGINE=openvino"):
        making.asked_of(engine="onnxruntime", precision="bf16")
