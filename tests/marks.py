"""What this CPU can be tested with: PyTorch's own loops for types that oneDNN has not here take minutes a test."""

import pytest

from unet3d.kernels import cpu

HAS_BF16 = cpu.onednn_computes("bf16")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="oneDNN computes bf16 only on CPUs with AVX-512")
needs_fp16 = pytest.mark.skipif(not cpu.onednn_computes("fp16"), reason="oneDNN computes fp16 only on CPUs with AVX512-FP16")
