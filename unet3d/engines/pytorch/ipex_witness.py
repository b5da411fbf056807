"""Which data types IPEX's convolutions really compute in, from oneDNN's own report.

IPEX packs convolutions into operators that PyTorch's profiler sees without their inputs; oneDNN beneath them can be
asked to print every primitive that it executes, with the data types of its memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from unet3d.config.precisions import name_of_type

PRIMITIVE = re.compile(
    r"^onednn_verbose,.*?\bexec,cpu,(convolution|deconvolution),[^,]*,[^,]*,src_?(?:[a-z]+:)?:?(\w+):", re.MULTILINE
)


@contextlib.contextmanager
def observing(observed: dict[str, set[str]]) -> Iterator[None]:
    """Add the convolutions that IPEX runs within to `observed`, as names of primitives by data type of their input."""
    import intel_extension_for_pytorch as ipex

    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept = os.dup(1)
    with tempfile.TemporaryFile() as report:
        os.dup2(report.fileno(), 1)
        try:
            with ipex.verbose(ipex.VERBOSE_ON):
                yield
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
        report.seek(0)
        text = report.read().decode(errors="replace")
    for primitive, type_name in PRIMITIVE.findall(text):
        observed.setdefault(name_of_type(type_name), set()).add(f"oneDNN {primitive}")
