"""C++ operators for the CPU: built on first use, kept in the user's cache, optional.

`load()` compiles the .cpp files beside this module with PyTorch's own extension loader and registers them as
torch.ops.unet3d_cpu.*, which torch.jit.trace and torch.compile see as ordinary operators. Where there is no compiler,
or UNET3D_KERNELS=off, the network uses PyTorch's operators instead; `status()` says which and why.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

SOURCES = ("cpu_norm.cpp",)
HEADERS = ("cpu_vec.h",)


def status() -> tuple[str, str]:
    """('native', where the library is) or ('fallback', why there is none). Builds at the first call."""
    return _load()


def available() -> bool:
    """Whether the C++ operators are loaded (loading or building them at the first call)."""
    return _load()[0] == "native"


@functools.cache
def _load() -> tuple[str, str]:
    if os.environ.get("UNET3D_KERNELS", "").lower() == "off":
        return "fallback", "switched off by UNET3D_KERNELS=off"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "fallback", f"written for x86-64, this is {platform.machine()}"
    import torch

    folder = _cache_folder(torch.__version__)
    library = folder / "unet3d_cpu.so"
    try:
        if not library.exists():
            _build(folder, library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return "fallback", f"cannot build the C++ operators: {reason[:200]}"
    _register_fakes(torch)
    return "native", str(library)


def _cache_folder(torch_version: str) -> Path:
    """One folder for each combination of source, PyTorch and CPU, since -march=native makes the library the CPU's."""
    digest = hashlib.sha256(torch_version.encode())
    for name in SOURCES + HEADERS:
        digest.update((Path(__file__).parent / name).read_bytes())
    cpu = Path("/proc/cpuinfo")
    flags = [line for line in cpu.read_text().splitlines() if line.startswith("flags")][:1] if cpu.exists() else []
    digest.update("".join(flags).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "unet3d" / f"cpu-{digest.hexdigest()[:16]}"


def _build(folder: Path, library: Path) -> None:
    """Compile into a temporary folder and move the library into place, so that a broken build is never loaded."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise RuntimeError("no C++ compiler (install g++)")
    if not shutil.which("ninja"):
        raise RuntimeError("no ninja (pip install ninja)")
    from torch.utils import cpp_extension

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as build:
        built = cpp_extension.load(
            "unet3d_cpu", [str(Path(__file__).parent / name) for name in SOURCES], build_directory=build,
            extra_cflags=["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-Wno-psabi"],
            is_python_module=False, is_standalone=False, verbose=False)
        os.replace(built or Path(build) / "unet3d_cpu.so", library)


def _register_fakes(torch) -> None:
    """Shapes of the results, for torch.compile and for tensors without storage."""
    def channels_last(x, channels):
        return torch.empty_like(x.new_empty((x.shape[0], channels, *x.shape[2:])),
                                memory_format=torch.channels_last_3d)

    @torch.library.register_fake("unet3d_cpu::norm_act_")
    def _(x, weight, bias, eps, slope):
        return None

    @torch.library.register_fake("unet3d_cpu::norm_act_skip_")
    def _(x, weight, bias, eps, slope):
        return channels_last(x, 2 * x.shape[1])

    @torch.library.register_fake("unet3d_cpu::norm_act_head")
    def _(x, weight, bias, eps, slope, head):
        return channels_last(x, head.shape[0])

    @torch.library.register_fake("unet3d_cpu::upsample_into_")
    def _(x, weight, buffer):
        return None
