"""Released PyTorch versions that compute this network wrongly, slowly or with wasted memory, by version.

A warning only: the comparison with fp32 decides whether a run counts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """One defect: torch from `first` up to, not including, `fixed` (None: not fixed by torch) and the same for cuDNN.

    rocm: of builds for ROCm, whose devices PyTorch calls cuda too, and of no others; their libraries are not cuDNN.
    """

    name: str
    kind: str
    precisions: frozenset[str]
    first: tuple[int, ...]
    fixed: tuple[int, ...] | None
    text: str
    cudnn_first: int | None = None  # as torch.backends.cudnn.version() says it: 91002 is 9.10.2
    cudnn_fixed: int | None = None
    rocm: bool = False


HALF = frozenset({"fp16", "bf16"})

KNOWN = (
    Known(
        "conv3d-bf16-wrong",
        "cuda",
        frozenset({"bf16"}),
        (2, 7, 0),
        (2, 9, 0),
        "Conv3d in bf16 can return wrong values with cuDNN 9.8 to 9.12 (github.com/pytorch/pytorch/issues/163539); "
        "use fp16, or torch 2.10 or later.",
        cudnn_first=90800,
        cudnn_fixed=91300,
    ),
    Known(
        "conv3d-without-cudnn",
        "cuda",
        HALF,
        (2, 9, 0),
        (2, 9, 1),
        "Conv3d in fp16 and bf16 does not use cuDNN: slow, and several times the memory "
        "(github.com/pytorch/pytorch/issues/166643); use torch 2.10 or later.",
    ),
    Known(
        "conv3d-without-cudnn",
        "cuda",
        HALF,
        (2, 9, 1),
        None,
        "Conv3d in fp16 and bf16 does not use cuDNN before 9.15: slow, and several times the memory "
        "(github.com/pytorch/pytorch/issues/166643); install nvidia-cudnn 9.15 or later, or torch 2.10 or later.",
        cudnn_fixed=91500,
    ),
    Known(
        "conv3d-bf16-slow",
        "cuda",
        frozenset({"bf16"}),
        (),  # its report says of no version that it is without
        None,
        "Conv3d in bf16 is reported to be slow with MIOpen (github.com/pytorch/pytorch/issues/167420); compare with "
        "another PRECISION.",
        rocm=True,
    ),
)


def parse_version(text: str) -> tuple[int, ...]:
    """(2, 11, 0) from "2.11.0+cu130"; a part that is no number ends it ("2.9.0a0+git" is (2, 9, 0))."""
    numbers = []
    for part in text.split("+", maxsplit=1)[0].split(".")[:3]:
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def find(kind: str, precision: str, torch_version: str, cudnn: int | None = None, rocm: bool = False) -> list[tuple[str, str]]:
    """(name, text) of every known defect of this software; `cudnn` as torch.backends.cudnn.version() gives it.

    rocm: whether this PyTorch is built for ROCm.
    """
    version = parse_version(torch_version)
    defects = []
    for issue in KNOWN:
        if issue.kind != kind or issue.rocm != rocm or precision not in issue.precisions or version < issue.first:
            continue
        if issue.fixed is not None and version >= issue.fixed:
            continue
        if issue.cudnn_first is not None and (cudnn is None or cudnn < issue.cudnn_first):
            continue
        if issue.cudnn_fixed is not None and cudnn is not None and cudnn >= issue.cudnn_fixed:
            continue
        defects.append((issue.name, f"torch {torch_version}: {issue.text}"))
    return defects
