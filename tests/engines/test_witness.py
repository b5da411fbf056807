"""What the witness counts, of PyTorch's own convolutions, which show as several operators one inside the other."""

import pytest
import torch

from unet3d.engines.pytorch.witness import Witness


@pytest.mark.parametrize("transposed", [False, True])
@torch.inference_mode()
def test_a_convolution_is_counted_once(transposed):
    x = torch.randn(1, 4, 6, 6, 6)
    conv = torch.nn.ConvTranspose3d(4, 8, 2, 2) if transposed else torch.nn.Conv3d(4, 8, 3, padding=1)
    witness = Witness(ipex_packed=False)
    with witness.watching():
        conv(x)
    assert sum(witness._flop.values()) == 2 * conv.weight.numel() * 6**3


@torch.inference_mode()
def test_a_run_has_the_precision_of_nearly_all_its_flop():
    x, conv = torch.randn(1, 8, 8, 8, 8), torch.nn.Conv3d(8, 8, 3, padding=1)
    small = torch.nn.Conv3d(8, 8, 1).double()
    witness = Witness(ipex_packed=False)
    with witness.watching():
        conv(x)
        small(x.double())
    assert witness.precision() == "fp32"
    assert witness.shares() == pytest.approx({"fp32": 27 / 28, "fp64": 1 / 28})
    with witness.watching():
        for _ in range(4):
            small(x.double())
    assert witness.precision() == "fp32+fp64"
