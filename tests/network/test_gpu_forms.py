"""Which forms the GPU's convolutions have by what was measured, and what each form can compute."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from unet3d.network import reference
from unet3d.network.gpu import Block
from unet3d.network.gpu_forms import FORMS, Geometry, by_architecture, candidates, form_of, geometries
from unet3d.network.gpu_tuning import Trial
from unet3d.network.inference import InferenceUNet
from unet3d.network.plans import random_plans

SHAPE = (1, 4, 224, 224, 160)
# What an H100 runs; every layer that is not named has the library's form.
WITH_CUDA = {
    "encoder.0.0": "cuda first",
    **dict.fromkeys(("encoder.0.1", "encoder.1.1", "decoder.3.0", "decoder.3.1", "decoder.4.0", "decoder.4.1"), "cuda walk"),
    "encoder.1.0": "cuda stride",
    "decoder.2.0": "planes",
}
WITH_TRITON = {
    "encoder.0.0": "first",
    **dict.fromkeys(("encoder.0.1", "decoder.4.1"), "march"),
    **dict.fromkeys(("decoder.2.0", "decoder.3.0", "decoder.4.0"), "planes"),
}
IN_BYTES = {**WITH_CUDA, **dict.fromkeys(("encoder.2.1", "decoder.2.0", "decoder.2.1"), "cuda walk")}


@pytest.fixture(scope="module")
def network():
    """The benchmark's own network, without memory for its weights."""
    return InferenceUNet.from_reference(reference.build(random_plans(), device="meta"))


def forms(found, choice, dtype=torch.float16):
    chosen = {name: form_of(geometry, dtype, choice.choose) for name, geometry in found.items()}
    return {name: form for name, form in chosen.items() if form != "library"}


def test_an_h100_runs_what_was_measured_on_it(network):
    found = geometries(network, SHAPE)
    assert len(found) == 22
    assert forms(found, by_architecture("sm_90", cuda=True)) == WITH_CUDA
    assert forms(found, by_architecture("sm_90", cuda=False)) == WITH_TRITON
    assert forms(found, by_architecture("sm_90", cuda=True), torch.float32) == {}
    # The table does not look at extents.
    assert forms(geometries(network, (2, 4, 64, 64, 64)), by_architecture("sm_90", cuda=True)) == WITH_CUDA


def test_int8_walks_wherever_products_are_of_bytes(network):
    every = dict.fromkeys(geometries(network, SHAPE))
    del every["encoder.0.0"]
    found = geometries(network, SHAPE, every)
    # The upsampled volume and the skip connection have steps of their own, and in the deepest levels do not come apart.
    assert {name for name in every if not found[name].in_bytes} == {"decoder.0.0", "decoder.1.0"}
    assert forms(found, by_architecture("sm_90", cuda=True)) == IN_BYTES


@pytest.mark.parametrize("architecture", ["sm_80", "sm_89", "sm_100", "12.60.7", None])
def test_cards_that_nobody_has_measured_keep_to_the_library(network, architecture):
    choice = by_architecture(architecture)
    assert forms(geometries(network, SHAPE), choice) == {"encoder.0.0": "first"}
    assert choice.source == f"safe rule: nobody has measured {architecture or 'this kind of GPU'}"
    assert by_architecture("sm_90").source == "measured table sm_90"


def test_geometries_are_what_the_network_reads(narrow_reference):
    network, shape, seen = InferenceUNet.from_reference(narrow_reference), (2, 4, 64, 32, 96), {}
    found = geometries(network, shape)
    for part, stages in (("encoder", network.encoder), ("decoder", network.decoder)):
        for level, stage in enumerate(stages):
            for i, block in enumerate(stage):
                name = f"{part}.{level}.{i}"
                block.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, tuple(x[0].shape)))
    with torch.inference_mode():
        network(torch.zeros(shape))
    assert {name: (g.batch, g.inputs, *g.extent) for name, g in found.items()} == seen
    assert {name for name, g in found.items() if g.upsampled} == {f"decoder.{level}.0" for level in range(5)}
    assert {name for name, g in found.items() if not g.raw} == {"encoder.0.0"}
    assert found["decoder.4.0"].sources == (8, 8) and found["decoder.4.0"].upsampled == 16


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)])
@pytest.mark.parametrize("upsampled", [0, 32, 48])
def test_what_is_offered_can_be_built(stride, upsampled):
    """Every form takes the weights of each convolution that it is said to compute."""
    seen = set()
    for inputs in (4, 16, 32, 48, 64, 128):
        for outputs in (16, 32, 64, 96):
            sources = (inputs // 2, inputs - inputs // 2) if upsampled else (inputs,)
            geometry = Geometry(1, (2, 2, 2), sources, outputs, stride=stride, upsampled=upsampled)
            trial = Trial(geometry, torch.float16, torch.device("cpu"))
            able = candidates(geometry, cuda=True)
            assert able[0] == "library" and set(candidates(geometry, cuda=False)) == {f for f in able if "cuda" not in f}
            for form in able:
                trial.call(form)
                if upsampled != 48 and "walk" in form:  # whose products may be of bytes, as two tensors come apart
                    Trial(replace(geometry, in_bytes=True), torch.bfloat16, torch.device("cpu")).call(form)
                assert Block(trial.block, torch.float16, form).form == form
            seen |= set(able)
    expected = {name for name, form in FORMS.items() if form.stride == stride}
    assert seen == expected | {"library"}


@pytest.mark.parametrize(("sources", "in_bytes", "walks"), [((64, 64), False, 2), ((64, 64), True, 1), ((128, 128), True, 2)])
def test_sources_whose_weights_have_no_room_together_are_told(sources, in_bytes, walks):
    geometry = Geometry(1, (2, 2, 2), sources, 32, upsampled=128, in_bytes=in_bytes)
    assert "cuda walk" in candidates(geometry, cuda=True)
    trial = Trial(geometry, torch.bfloat16, torch.device("cpu"))
    block = Block(trial.block, torch.bfloat16, "cuda walk", trial.ranges if in_bytes else None)
    form = "cuda walk for each source" if walks == 2 else "cuda walk"
    assert block.told == f"{form}, {'int8' if in_bytes else 'bf16'} products"


@pytest.mark.parametrize("sources", [(96, 96), (32, 96), (128, 128)])
def test_other_sources_that_have_no_room_do_not_walk(sources):
    assert "cuda walk" not in candidates(Geometry(1, (2, 2, 2), sources, 32, upsampled=128), cuda=True)


def test_other_kernels_are_the_librarys():
    geometry = Geometry(1, (8, 8, 8), (32,), 32, kernel=(1, 3, 3), padding=(0, 1, 1))
    assert candidates(geometry, cuda=True) == ("library",)
