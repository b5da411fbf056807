"""Volumes change their layout and nothing else, by PyTorch or by the kernel, whatever their extents."""

import pytest
import torch

from unet3d.engines import layout

DEVICE = next((kind for kind in ("cuda", "xpu") if getattr(torch, kind).is_available()), "cpu")
SHAPES = [(1, 4, 16, 16, 16), (2, 4, 5, 7, 61), (3, 4, 1, 1, 1), (1, 3, 4, 5, 6)]


def made(shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_layout_becomes_innermost(shape, dtype):
    given = made(shape, dtype)
    for volumes in (given, given.contiguous(memory_format=torch.channels_last_3d), given.flip(2)):
        found = layout.innermost(volumes.to(DEVICE))
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(found.cpu(), volumes)


def test_volumes_in_that_layout_are_not_copied():
    given = made(SHAPES[1], torch.float16).contiguous(memory_format=torch.channels_last_3d)
    assert layout.innermost(given) is given


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
def test_a_place_on_a_device_is_filled_from_the_host(order):
    given = made(SHAPES[1], torch.float16)
    place = torch.full_like(given, torch.nan, device=DEVICE, memory_format=order)
    layout.fill(place, given)
    assert torch.equal(place.cpu(), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] == 4])
def test_the_kernel_gives_the_same(shape, dtype):
    pytest.importorskip("triton")
    from unet3d.network.triton_ops import interleave

    given = made(shape, dtype).to(DEVICE)
    found = torch.full_like(given, torch.nan, memory_format=torch.channels_last_3d)
    interleave.interleave(given, found)
    assert torch.equal(found, given)
