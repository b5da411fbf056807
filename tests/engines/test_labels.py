"""Labels are those of an argmax, whatever the layout and type of the logits, also where classes are equally likely."""

import numpy as np
import pytest
import torch

from unet3d.engines import labels
from unet3d.engines.base import Engine
from unet3d.network.cpu_ops import build

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]
DEVICE = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")


def logits(layout, dtype, classes=4):
    # Few different values: most voxels have classes that are equally likely.
    values = torch.randint(-3, 4, (2, classes, 37, 8, 5), generator=torch.Generator().manual_seed(1))
    return values.to(dtype).contiguous(memory_format=layout)


@pytest.fixture(params=[True, False])
def operators(request, monkeypatch):
    """With the CPU's operators where they can be built, and without them."""
    if request.param and not build.available():
        pytest.skip(build.status()[1])
    monkeypatch.setattr(build, "loaded", lambda: request.param)


@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_of_the_largest_logits(layout, dtype, classes, operators):
    made = logits(layout, dtype, classes)
    found = labels.most_likely(made)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), made.float().numpy().argmax(axis=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_gives_the_same(dtype):
    pytest.importorskip("triton")
    from unet3d.network.triton_ops import labels as kernel

    made = logits(torch.channels_last_3d, dtype).to(DEVICE)
    found = torch.empty((2, 37, 8, 5), dtype=torch.uint8, device=DEVICE)
    kernel.most_likely(made, found)
    assert np.array_equal(found.cpu().numpy(), made.float().cpu().numpy().argmax(axis=1))


def test_operators_give_the_same_where_numbers_are_any_and_zeros_have_a_sign():
    if not build.available():
        pytest.skip(build.status()[1])
    numbers = torch.randn((2, 4, 19, 7, 41), generator=torch.Generator().manual_seed(2))
    numbers[numbers.abs() < 0.3] *= 0
    for dtype in (torch.float32, torch.bfloat16):
        made = numbers.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        found = torch.full((2, 19, 7, 41), 9, dtype=torch.uint8)
        torch.ops.unet3d_fused.labels(made, found)
        assert np.array_equal(found.numpy(), made.float().numpy().argmax(axis=1))


def test_an_engine_without_labels_of_its_own_has_these():
    class Request:
        threads, streams = 1, 1

    class Plain:
        request = Request()
        logits = staticmethod(lambda output: output)

    made = logits(torch.contiguous_format, torch.float32).numpy()
    assert np.array_equal(Engine.labels(Plain(), made), made.argmax(axis=1))
