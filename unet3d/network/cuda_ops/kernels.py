"""Compiles the CUDA C++ kernels for the GPU at hand and launches them on PyTorch's stream.

NVRTC and the driver are called through cuda-bindings, which torch's CUDA wheels bring with them from 2.11 on. A kernel
compiles in less than a second, so we keep nothing on disk. NVRTC itself does from 12.9 on, in the driver's cache.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
# The kernels use instructions that this architecture has and later ones do not.
ARCHITECTURE = "sm_90"
SHARED_BYTES = 227 * 1024  # of a multiprocessor, for one program
REMEDY = "pip install -r requirements-nvidia.txt"


def why_not(architecture: str | None) -> str | None:
    """Why these kernels cannot be used on a GPU of this architecture; None where they can."""
    if architecture != ARCHITECTURE:
        return f"they are written for {ARCHITECTURE}, this GPU is {architecture or 'of another kind'}"
    return _why_no_compiler()


@functools.cache
def _why_no_compiler() -> str | None:
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return "cuda-bindings is not installed"
    try:
        from cuda.bindings import nvrtc

        _checked(nvrtc.nvrtcVersion())
    except (ImportError, RuntimeError) as error:
        return f"NVRTC cannot be loaded: {str(error).partition(chr(10))[0]}"
    return None


def compiled(name: str, defines: tuple[str, ...], anew: bool = False) -> tuple[bytes, str]:
    """Machine code of kernel `name` with preprocessor definitions ("SLABS=2"), and the compiler's remarks.

    anew: not from NVRTC's own cache, which keeps no remarks. Raises RuntimeError with the compiler's words where it does not
    compile.
    """
    from cuda.bindings import nvrtc

    headers = sorted(FOLDER.glob("*.cuh"))
    source = (FOLDER / f"{name}.cu").read_bytes()
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            source,
            f"{name}.cu".encode(),
            len(headers),
            [header.read_bytes() for header in headers],
            [header.name.encode() for header in headers],
        )
    )
    options = [f"--gpu-architecture={ARCHITECTURE}a", "--std=c++17", "--ptxas-options=-v", "-lineinfo", "-default-device"]
    options += [f"-D{define}" for define in defines]
    if anew and _checked(nvrtc.nvrtcVersion()) >= (12, 9):
        options.append("-no-cache")
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
    _checked(nvrtc.nvrtcGetProgramLog(program, log))
    words = log.rstrip(b"\0").decode(errors="replace")
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"{name}.cu with {', '.join(defines) or 'no definitions'}: {status.name}\n{words}")
    code = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code), words


@dataclass(frozen=True)
class Kernel:
    """A kernel loaded on one device."""

    function: Any
    threads: int
    shared: int  # bytes of dynamic shared memory
    device: int  # CUDA's number

    def launch(self, grid: Sequence[int], *arguments: torch.Tensor | int | float | None) -> None:
        """On its device's current stream, whichever device is the current one; grid of 3.

        Tensors go as addresses, None as a null pointer. Raises RuntimeError.
        """
        from cuda.bindings import driver

        kinds = {float: ctypes.c_float, int: ctypes.c_int}
        values = tuple(a.data_ptr() if isinstance(a, torch.Tensor) else a or 0 for a in arguments)
        types = tuple(kinds.get(type(a), ctypes.c_void_p) for a in arguments)
        # The driver launches in the context of the current device only.
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            size = (*grid, self.threads, 1, 1, self.shared)
            launched = driver.cuLaunchKernel(self.function, *size, stream, (values, types), 0)
        _checked(launched)


@functools.cache
def load(name: str, defines: tuple[str, ...], threads: int, shared: int, device: int) -> Kernel:
    """The kernel compiled and loaded on CUDA device number `device`; raises RuntimeError where that fails."""
    from cuda.bindings import driver

    with torch.cuda.device(device):
        torch.cuda.current_stream()  # makes the device's context the current one
        module = _checked(driver.cuModuleLoadData(compiled(name, defines)[0]))
        function = _checked(driver.cuModuleGetFunction(module, name.encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, attribute, shared))
    return Kernel(function, threads, shared, device)


def _checked(returned: tuple) -> Any:
    """What a call of cuda-bindings gave beside its status; raises RuntimeError for a status that is an error."""
    status, *rest = returned
    if status.value:
        raise RuntimeError(f"CUDA: {status.name}")
    return rest[0] if len(rest) == 1 else tuple(rest)
