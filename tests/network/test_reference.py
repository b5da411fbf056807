"""The reference network is nnU-Net's, and the cost model counts what it computes."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unet3d.brats import weights
from unet3d.errors import UserError
from unet3d.network import flops, reference
from unet3d.network.plans import architecture, random_plans


def test_full_network_is_that_of_mlperf():
    network = reference.build(random_plans(), device="meta")
    assert sum(p.numel() for p in network.parameters()) == 31_198_976
    widths = [stage.output_channels for stage in network.conv_blocks_context[:-1]]
    assert widths + [network.conv_blocks_context[-1][-1].output_channels] == [32, 64, 128, 256, 320, 320]
    norms = [m for m in network.modules() if isinstance(m, torch.nn.InstanceNorm3d)]
    slopes = {m.negative_slope for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert len(norms) == 22 and all(m.eps == 1e-5 and m.affine and not m.track_running_stats for m in norms)
    assert slopes == {0.01}
    ups = [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose3d)]
    assert len(ups) == 5 and all(m.kernel_size == m.stride == (2, 2, 2) for m in ups)
    assert not any(isinstance(m, torch.nn.MaxPool3d) for m in network.modules())
    assert not network.training


def test_built_as_nnunets_trainer_builds_it():
    """nnU-Net's own trainer, given the same plans, has the same parameters and computes the same logits."""
    trainer_class = reference.import_nnunet("nnunet.training.network_training.nnUNetTrainerV2").nnUNetTrainerV2
    plans = random_plans(base_features=4, max_features=320)
    trainer = trainer_class.__new__(trainer_class)
    trainer.stage = None
    trainer.process_plans(plans)
    trainer.initialize_network()
    theirs = trainer.network.eval()
    theirs.do_ds = False
    ours = reference.build(plans, theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    volume = torch.randn(1, 4, 32, 64, 32)
    with torch.inference_mode():
        logits = ours(volume)
        assert torch.equal(logits, theirs(volume))
        assert logits.shape == (1, 4, 32, 64, 32)
        ours.do_ds = theirs.do_ds = True
        heads, expected = ours(volume), theirs(volume)
    assert len(heads) == 5 and all(torch.equal(a, b) for a, b in zip(heads, expected, strict=True))


def test_only_the_full_resolution_head_runs():
    network = reference.build(random_plans(4, poolings=3))
    calls = []
    for head in network.seg_outputs:
        head.register_forward_hook(lambda module, *_: calls.append(module))
    with torch.inference_mode():
        network(torch.randn(1, 4, 16, 16, 16))
    assert calls == [network.seg_outputs[-1]]


def test_flops_of_a_full_volume():
    assert flops.flops(random_plans(), (4, 224, 224, 160)) / 1e12 == pytest.approx(3.70, abs=0.005)


@pytest.mark.parametrize("batch", [1, 2])
def test_flops_against_torch(batch):
    network = reference.build(random_plans(4, 24))
    volume = torch.randn(batch, 4, 32, 32, 64)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(volume)
    assert flops.flops(network, tuple(volume.shape)) == counter.get_total_flops()
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    for layer in flops.layers(network, tuple(volume.shape)):
        assert counted[f"ReferenceUNet.{layer.name}"] == layer.flop


def test_layer_bytes_are_those_of_the_tensors():
    network = reference.build(random_plans(4, poolings=2))
    seen = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            module.register_forward_hook(
                lambda m, i, o, name=name: seen.update({name: (i[0].nbytes, o.nbytes, sum(p.nbytes for p in m.parameters()))})
            )
    with torch.inference_mode():
        network(torch.randn(1, 4, 8, 16, 8))
    counted = flops.layers(network, (4, 8, 16, 8))
    assert [layer.name for layer in counted] == list(seen)
    assert {layer.name: (layer.input_bytes, layer.output_bytes, layer.weight_bytes) for layer in counted} == seen


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second = weights.random_weights(4), weights.random_weights(4)
    other = weights.random_weights(4, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, second.state_dict[key]) for key, value in first.state_dict.items())
    assert not torch.equal(first.state_dict["tu.0.weight"], other.state_dict["tu.0.weight"])
    assert (first.kind, first.path, first.sha256) == ("random", None, None)


def test_weights_of_another_network_are_refused():
    state = weights.random_weights(4).state_dict
    with pytest.raises(UserError, match=r"\(64, 128, 3, 3, 3\) instead of \(128, 256, 3, 3, 3\) and \d+ more"):
        reference.build(random_plans(8), state)
    del state["tu.0.weight"]
    with pytest.raises(UserError, match="tu.0.weight is missing"):
        reference.build(random_plans(4), state)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("base_num_features", 0, "base_num_features is 0"),
        ("base_num_features", "wide", "wide"),
        ("num_modalities", None, "not the plans"),
        ("plans_per_stage", {}, "not the plans"),
        ("plans_per_stage", {0: {"conv_kernel_sizes": [[3, 3, 3]]}}, "'pool_op_kernel_sizes' is missing"),
        ("plans_per_stage", {0: {"pool_op_kernel_sizes": [[2, 2]], "conv_kernel_sizes": [[3, 3]] * 2}}, "pool_op_kernel_sizes"),
    ],
)
def test_plans_that_describe_no_network(key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        architecture({**random_plans(), key: value})
    assert "\n" not in str(caught.value)


def test_nothing_on_stdout():
    """nnunet greets with a banner when imported; results go to stdout, so the banner must not."""
    done = subprocess.run([sys.executable, "-c", "import unet3d.network.reference"], capture_output=True, text=True, check=True)
    assert done.stdout == ""
