"""Volumes change their layout and nothing else, by PyTorch or by the kernel, whatever their extents."""

import threading

import pytest
import torch

from unet3d.engines import layout
from unet3d.network.cpu_ops import build

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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 4, 9, 51, 53)])
@pytest.mark.parametrize("operators", [True, False])
def test_a_host_changes_type_and_layout_as_pytorch_does(shape, dtype, threads, operators, monkeypatch):
    if operators and not build.available():
        pytest.skip(build.status()[1])
    monkeypatch.setattr(build, "loaded", lambda: operators)
    given = made(shape, torch.float32)
    # Numbers between two of bf16's, of both kinds, and those that rounding must not make others.
    given.view(-1)[:7] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, torch.nan, torch.inf, -torch.inf, -0.0, 3.4e38])[
        : given.numel()
    ]
    place = torch.full(shape, 7.0, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layout.fill(place, given)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(place.isnan(), given.isnan())
    assert torch.equal(place.nan_to_num(7.0), given.to(dtype).nan_to_num(7.0))
    assert torch.equal(place.signbit() & ~place.isnan(), given.signbit() & ~given.isnan())


def test_operators_that_nobody_has_built_are_not_built_for_this(monkeypatch):
    monkeypatch.setattr(build, "status", lambda: pytest.fail("built"))
    monkeypatch.setattr(build, "_loaded", threading.Event())
    place = torch.empty(SHAPES[0]).contiguous(memory_format=torch.channels_last_3d)
    given = made(SHAPES[0], torch.float32)
    layout.fill(place, given)
    assert torch.equal(place, given)
