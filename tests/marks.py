"""What this CPU can be tested with: PyTorch's own loops for types that oneDNN has not here take minutes a test."""

import functools

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


def _loop(end):
    for _ in range(0, end):
        pass


@functools.cache
def _why_no_loops() -> str | None:
    """Triton's interpreter of some releases fails at loops with NumPy from 2.4 on; None where kernels run."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        return None
    try:
        triton.jit(_loop)[(1,)](2)
    except Exception as error:  # noqa: BLE001 - whatever it raises, kernels do not run
        return f"Triton {triton.__version__}'s interpreter cannot run kernels here: {error}"
    return None


def skip_without_triton():
    """Ends a test as skipped where Triton is missing or cannot run kernels."""
    if reason := _why_no_loops():
        pytest.skip(reason)
