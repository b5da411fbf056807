"""What this CPU can be tested with: PyTorch's own loops for types that oneDNN has not here take minutes a test."""

import pytest

from unet3d.network.cpu_ops import library


def needs(precision):
    return pytest.mark.skipif(
        not library.onednn_computes(precision),
        reason=f"oneDNN computes {precision} only on CPUs with {library.HALF_NEEDS[precision]}",
    )


HAS_BF16 = library.onednn_computes("bf16")
needs_bf16, needs_fp16 = needs("bf16"), needs("fp16")
