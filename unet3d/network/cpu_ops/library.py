"""C++ operators for the CPU: built on first use, kept in the user's cache, optional.

`load()` compiles the .cpp files beside this module with PyTorch's own extension loader and registers them as
torch.ops.unet3d_cpu.*, which torch.jit.trace and torch.compile see as ordinary operators. Where there is no compiler,
or UNET3D_KERNELS=off, the network uses PyTorch's operators instead; `status()` says which and why.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import files
from unet3d.config.precisions import PRECISIONS

if TYPE_CHECKING:
    import torch

SOURCES = ("cpu_conv.cpp", "cpu_norm.cpp", "cpu_pool.cpp")
HEADERS = ("cpu_pool.h", "cpu_vec.h")
# What a CPU must have for oneDNN to compute convolutions in a half precision.
HALF_NEEDS = {precision.name: precision.onednn_needs for precision in PRECISIONS.values() if precision.onednn_needs}
REMEDY = "For the faster form: g++ and ninja (pip install ninja), PRECISION=bf16 or fp32, UNET3D_KERNELS not off."


def status() -> tuple[str, str]:
    """('native', where the library is) or ('fallback', why there is none). Builds at the first call."""
    return _load()


def available() -> bool:
    """Whether the C++ operators are loaded (loading or building them at the first call)."""
    return _load()[0] == "native"


def computes(dtype: torch.dtype) -> tuple[str, str]:
    """As `status`, for activations of this data type: fp32, and bf16 where oneDNN has it for this CPU."""
    import torch

    if dtype not in (torch.float32, torch.bfloat16):
        return "fallback", f"the C++ operators compute fp32 and bf16, not {str(dtype).removeprefix('torch.')}"
    if dtype == torch.bfloat16 and not onednn_computes("bf16"):
        return "fallback", f"oneDNN computes bf16 only on CPUs with {HALF_NEEDS['bf16']}"
    return _load()


def onednn_computes(precision: str) -> bool:
    """Whether oneDNN has convolutions in bf16 or fp16 for this CPU (see HALF_NEEDS).

    Where it has none, PyTorch computes them by a loop of its own at 0.2 GFLOP/s, which is hours a volume.
    """
    import torch

    return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")())


@functools.cache
def _load() -> tuple[str, str]:
    if os.environ.get("UNET3D_KERNELS", "").lower() == "off":
        return "fallback", "switched off by UNET3D_KERNELS=off"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "fallback", f"written for x86-64, this is {platform.machine()}"
    import torch

    if not torch.backends.mkldnn.is_available():
        return "fallback", "this PyTorch was built without oneDNN"
    try:
        folder = _cache_folder(torch.__version__)
        library = folder / "unet3d_cpu.so"
        if not library.exists():
            _build(folder, library)
        torch.ops.load_library(str(library))
        _try_out(torch)
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        return "fallback", f"cannot build or load the C++ operators: {_essence(error)[:300]}"
    _register_fakes(torch)
    return "native", str(library)


def _essence(error: Exception) -> str:
    """The compiler's first error where there is one, else the message's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)


def _try_out(torch) -> None:
    """One call of each oneDNN operator: PyTorch does not promise to keep them, so a newer one may refuse."""
    operators = torch.ops.unet3d_cpu
    x = torch.ones(1, 16, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        y = operators.conv(x, torch.ones(16, 16, 3, 3, 3), [2, 2, 2], [1, 1, 1])
        y = operators.conv_transpose(y, torch.ones(16, 16, 4, 4, 4), [2, 2, 2], [1, 1, 1])
        operators.conv_add_(y, x, torch.ones(16, 16, 3, 3, 3), [1, 1, 1], [1, 1, 1])
    if y.shape != x.shape:
        raise RuntimeError("oneDNN's operators in this PyTorch give other shapes")


def _cache_folder(torch_version: str) -> Path:
    """One folder for each combination of source, PyTorch and CPU, since -march=native makes the library the CPU's."""
    digest = hashlib.sha256(torch_version.encode())
    for name in SOURCES + HEADERS:
        digest.update((Path(__file__).parent / name).read_bytes())
    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith("flags")][:1] if cpu.exists() else []
    digest.update("".join(flags).encode())
    return files.cache_folder() / f"cpu-{digest.hexdigest()[:16]}"


def _build(folder: Path, library: Path) -> None:
    """Compile into a temporary folder and move the library into place, so that a broken build is never loaded."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise RuntimeError("no C++ compiler (install g++)")
    if not shutil.which("ninja"):
        raise RuntimeError("no ninja (pip install ninja)")
    # A PyTorch for CUDA on a machine without a GPU says so here, of which nothing follows for the CPU's operators.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as build:
        built = cpp_extension.load(
            "unet3d_cpu",
            [str(Path(__file__).parent / name) for name in SOURCES],
            build_directory=build,
            extra_cflags=["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-Wno-psabi"],
            is_python_module=False,
            is_standalone=False,
            verbose=False,
        )
        files.move_into_place(Path(built or Path(build) / "unet3d_cpu.so"), library)


def _register_fakes(torch) -> None:
    """Shapes of the results, for torch.compile and for tensors without storage."""

    def channels_last(x, channels, extents):
        return torch.empty_like(x.new_empty((x.shape[0], channels, *extents)), memory_format=torch.channels_last_3d)

    @torch.library.register_fake("unet3d_cpu::conv")
    def _(x, weight, stride, padding):
        extents = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)]
        return channels_last(x, weight.shape[0], extents)

    @torch.library.register_fake("unet3d_cpu::conv_transpose")
    def _(x, weight, stride, padding):
        extents = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)]
        return channels_last(x, weight.shape[1], extents)

    @torch.library.register_fake("unet3d_cpu::conv_add_")
    def _(y, x, weight, stride, padding):
        return None

    @torch.library.register_fake("unet3d_cpu::norm_act_")
    def _(x, weight, bias, eps, slope):
        return None

    @torch.library.register_fake("unet3d_cpu::norm_act_head")
    def _(x, weight, bias, eps, slope, head):
        return channels_last(x, head.shape[0], x.shape[2:])
