"""What this CPU can be tested with: PyTorch's own loops for types that oneDNN has not here take minutes a test."""

import pytest
import torch

from unet3d.engines.pytorch import onednn


def needs(precision):
    return pytest.mark.skipif(
        not onednn.computes(precision),
        reason=f"oneDNN computes {precision} only on CPUs with {onednn.HALF_NEEDS[precision]}",
    )


HAS_BF16 = onednn.computes("bf16")
needs_bf16, needs_fp16 = needs("bf16"), needs("fp16")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
