"""The precisions: what a number of each is, everywhere the same. An engine says for itself which of them it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Precision:
    """A data type of the convolutions."""

    name: str  # as users write it
    bytes: int  # of a number
    # Largest relative error of logits that the precision explains, as norm of the difference to fp32 over norm of fp32. A
    # correct implementation stays far below (fp32 1e-5, fp16 2e-3, bf16 2e-2, int8 0.1 with random weights); a wrong one
    # lands near 1.
    error_limit: float
    torch_type: str  # its name in torch
    # As PyTorch's profiler, OpenVINO, ONNX Runtime and oneDNN write it in what they report.
    type_names: tuple[str, ...]
    # OpenVINO's inference precision; None where the layers that are not quantised take the plugin's fastest floating point.
    openvino_hint: str | None
    half: bool = False  # 16 bits of floating point
    onednn_needs: str | None = None  # instructions without which oneDNN computes no convolution in it on a CPU
    # The share of the convolutions' FLOP from which a run is one of this precision. In int8 all engines leave layers in 16
    # bits; what they are, and the share, is in the results.
    main_share: float = 0.9
    # The error of the check at full size up to which nothing is said. In floating point sums in another order explain it. The
    # steps of int8 suit the volumes that they were found with; on others the error is a few times as large.
    unsaid_error: float = 1e-3

    def dtype(self) -> torch.dtype:
        """PyTorch's data type."""
        import torch

        dtype = getattr(torch, self.torch_type)
        assert isinstance(dtype, torch.dtype)
        return dtype


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision("fp32", 4, 1e-3, "float32", ("f32", "float", "float32"), "f32"),
        Precision("fp16", 2, 0.03, "float16", ("f16", "float16", "half", "c10::Half"), "f16", True, "AVX512-FP16"),
        Precision("bf16", 2, 0.15, "bfloat16", ("bf16", "bfloat16", "c10::BFloat16"), "bf16", True, "AVX-512"),
        Precision(
            "int8",
            1,
            0.4,
            "int8",
            ("i8", "s8", "u8", "int8", "int8_t", "signed char", "uint8", "uint8_t"),
            None,
            main_share=0.75,
            unsaid_error=0.05,
        ),
    )
}
# Types that are no precision to choose, but may turn up in what ran.
OTHER_TYPES = {"double": "fp64"}
_BY_TYPE_NAME = {name: precision for precision in PRECISIONS.values() for name in precision.type_names}


def of_type(type_name: str) -> Precision | None:
    """The precision that a library reports by this name of a data type, such as "c10::Half"; None where it is none."""
    return _BY_TYPE_NAME.get(type_name)


def name_of_type(type_name: str) -> str:
    """Our name of a data type as libraries write it; a type that is no precision keeps its own."""
    precision = of_type(type_name)
    return precision.name if precision else OTHER_TYPES.get(type_name, type_name)
