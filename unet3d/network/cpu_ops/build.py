"""The CPU's fused layers: C++ that is built on first use and kept in the user's cache.

`status()` compiles the .cpp files beside this module with PyTorch's own extension loader, registers them as
torch.ops.unet3d_fused.*, which torch.jit.trace and torch.compile see as ordinary operators, and says whether they are
there, and if not, why.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import caches, files, progress
from unet3d.config.precisions import PRECISIONS

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent
SOURCES, HEADERS = (tuple(sorted(path.name for path in FOLDER.glob(pattern))) for pattern in ("*.cpp", "*.h"))
# GCC takes _mm512_undefined_ps for a mistake of ours.
FLAGS = ("-O3", "-fopenmp", "-fno-math-errno", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-maybe-uninitialized")

NAME = "unet3d_fused"
# Types of tensors.
STORED = ("fp32", "bf16")
_loaded = threading.Event()
REMEDY = "For the faster form: g++ and ninja (pip install ninja), PRECISION=bf16 or fp32, UNET3D_KERNELS not off."


@functools.cache
def status() -> tuple[str, str]:
    """('native', where the library is) or ('fallback', why there is none). Builds at the first call."""
    if os.environ.get("UNET3D_KERNELS", "").lower() == "off":
        return "fallback", "switched off by UNET3D_KERNELS=off"
    import torch

    try:
        folder = cache_folder(torch.__version__)
        caches.hold(folder.parent, caches.OPERATORS)
        library = whole_library(folder) or build(folder)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        return "fallback", f"cannot build or load the C++ operators: {_essence(error)[:300]}"
    from unet3d.network.cpu_ops import ops

    ops.register_fakes()
    _loaded.set()
    return "native", str(library)


def available() -> bool:
    """Whether the operators are loaded (loading or building them at the first call)."""
    return status()[0] == "native"


def loaded() -> bool:
    """Whether the operators are there already, for callers that have no reason to build them."""
    return _loaded.is_set()


def has_passes(dtype: torch.dtype) -> bool:
    """Whether there are passes of ours around the network for what it stores: the staging of volumes, and labels."""
    return loaded() and dtype in {PRECISIONS[name].dtype() for name in STORED}


def computes(precision: str) -> tuple[str, str]:
    """As `status`, for tensors of this type."""
    return status() if precision in STORED else ("fallback", f"the C++ operators store fp32 and bf16, not {precision}")


def vectors() -> str:
    """What the operators compute with: "AVX-512 BF16", "AVX-512", "AVX2" or "portable"."""
    import torch

    return str(torch.ops.unet3d_fused.vectors())


def amx() -> bool:
    """Whether this CPU has AMX tiles, the compiler knew them, and the system lets this process use them."""
    import torch

    return bool(torch.ops.unet3d_fused.amx())


def architecture() -> str:
    """What the compiler builds for; UNET3D_MARCH names another CPU, such as haswell for AVX2."""
    return os.environ.get("UNET3D_MARCH", "native")


def _essence(error: Exception) -> str:
    """The compiler's first error where there is one, else the message's first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)


def cache_folder(torch_version: str) -> Path:
    """One folder for each combination of source, PyTorch and CPU, since -march=native makes the library the CPU's."""
    digest = hashlib.sha256(f"{torch_version} {architecture()} {platform.machine()} {FLAGS}".encode())
    for name in SOURCES + HEADERS:
        digest.update((FOLDER / name).read_bytes())
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    digest.update("".join(flags).encode())
    return caches.folder() / f"fused-{digest.hexdigest()[:16]}"


def whole_library(folder: Path) -> Path | None:
    """The library in this folder whose content is that of its name; None where there is none.

    Loading one that is cut off ends the process with SIGBUS, so that nobody could say what is wrong.
    """
    return next((library for library in sorted(folder.glob(f"{NAME}-*.so")) if library == named(folder, library)), None)


def named(folder: Path, library: Path) -> Path:
    """The path in `folder` that a library has to have: with the SHA-256 of its content."""
    with open(library, "rb") as file:
        return folder / f"{NAME}-{hashlib.file_digest(file, 'sha256').hexdigest()}.so"


def ninja() -> Path | None:
    """The program ninja: on PATH, else among the programs of this interpreter's packages; None where there is none.

    These are on PATH only where the environment was activated, which a run does not need.
    """
    folders = [sysconfig.get_path("scripts")]
    with contextlib.suppress(ImportError):
        from ninja import BIN_DIR

        folders.append(BIN_DIR)
    found = shutil.which("ninja") or shutil.which("ninja", path=os.pathsep.join(filter(None, folders)))
    return None if found is None else Path(found)


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """While the body runs, programs of this folder are found where PATH has none of their name."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join((os.defpath if before is None else before, str(folder)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def build(folder: Path) -> Path:
    """Compile the operators into `folder`; returns the library, whose name has the SHA-256 of its content.

    Compiled in a folder of its own and then renamed: a broken build is never loaded, and of two processes that build at
    once each has its own, with one name where they are the same.

    Raises:
        RuntimeError: without a compiler or ninja, or when it does not compile.
    """
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise RuntimeError("no C++ compiler (install g++)")
    program = ninja()
    if program is None:
        raise RuntimeError("no ninja (pip install ninja)")
    # A PyTorch for CUDA on a machine without a GPU says so here, of which nothing follows for the CPU's operators.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    folder.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder)
    # What a killed build has left has a name by which it is removed later.
    with tempfile.TemporaryDirectory(dir=folder, prefix=files.PARTIAL) as scratch:
        # PyTorch's loader calls ninja by its name.
        with progress.phase("compiling the C++ operators for this CPU, once"), _on_path(program.parent):
            built = cpp_extension.load(
                NAME,
                [str(FOLDER / name) for name in SOURCES],
                build_directory=scratch,
                extra_cflags=[*FLAGS, f"-march={architecture()}"],
                is_python_module=False,
                is_standalone=False,
                verbose=False,
            )
        compiled = Path(built or Path(scratch) / f"{NAME}.so")
        library = named(folder, compiled)
        files.move_into_place(compiled, library)
    for other in folder.glob(f"{NAME}-*.so"):
        if other != named(folder, other):
            other.unlink(missing_ok=True)
    return library
