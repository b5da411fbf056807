"""The machine and the software that a run was made with."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet3d.devices import control_groups, topology
from unet3d.places import CHECKOUT

if TYPE_CHECKING:
    from unet3d.devices.base import Device

PACKAGES = (
    "torch",
    "nnunet",
    "numpy",
    "nibabel",
    "SimpleITK",
    "batchgenerators",
    "intel-extension-for-pytorch",
    "openvino",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "triton",
    "mlcommons-loadgen",
)
# Settings of other software that change what is measured.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
    "MKL_NUM_THREADS",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "TORCH_COMPILE_DISABLE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUDA_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "ZE_FLAT_DEVICE_HIERARCHY",
    "ONEAPI_DEVICE_SELECTOR",
    "NVIDIA_TF32_OVERRIDE",
    "UNET3D_KERNELS",
    "UNET3D_MARCH",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
)


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where /proc/cpuinfo is not there."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def bf16_instructions() -> str | None:
    """Name of the CPU's bf16 instructions, or None."""
    flags = cpu_flags()
    for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if flag in flags:
            return name
    return None


def cpu_model() -> str:
    """The CPU's name."""
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def logical_cpus() -> int:
    """CPUs of the machine, each hyper-thread one."""
    return os.cpu_count() or 1


def usable_cores() -> int:
    """Physical cores that this process may run on: its affinity and its container's CPU quota, hyper-threads once."""
    return _within_quota(len(topology.cores()))


def usable_cpus() -> int:
    """The same with each hyper-thread counted."""
    return _within_quota(len(os.sched_getaffinity(0)))


def _within_quota(count: int) -> int:
    quota = control_groups.cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def available_memory() -> int:
    """Bytes of memory that can still be taken, within the container's limit."""
    import psutil

    available, left = psutil.virtual_memory().available, control_groups.memory_left()
    return available if left is None else min(available, left)


def peak_memory() -> int:
    """Most memory that this process has held at one time since the last reset, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back_freed_memory() -> None:
    """Return what this process has freed to the system, of which glibc keeps blocks up to 32 MB; others keep little."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_peak_memory() -> None:
    """Start anew from the memory held now, where the kernel allows it; otherwise the peak is the process's own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that take part."""
    software = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            software[package] = importlib.metadata.version(package)
    import torch

    onednn = re.search(r"(?:oneDNN|MKL-DNN) v([\d.]+)", torch.__config__.show())
    if onednn:
        software["oneDNN"] = onednn[1]
    cudnn: Any = torch.backends.cudnn  # PyTorch gives its functions no types
    if cudnn.is_available():
        software["cuDNN"] = str(cudnn.version())
        software["CUDA"] = str(torch.version.cuda)
    return software


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout with this root, and whether files differ from it; None for what is not known.

    An image or an installed package is no checkout: there UNET3D_COMMIT names the commit, which says nothing of changes.
    """
    # Where git is told of another repository, such as in a hook, that one's commit is not ours.
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20, env=own
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        # A package or an unpacked release may lie within a checkout of something else.
        if CHECKOUT and Path(git("rev-parse", "--show-toplevel")).resolve() == folder.resolve():
            return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    return os.environ.get("UNET3D_COMMIT") or None, None


def frequency_governor() -> str | None:
    """The kernel's policy for the CPU's clock; None where it has none, as in many virtual machines."""
    with contextlib.suppress(OSError):
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    return None


def hardware() -> dict[str, Any]:
    """CPU, cores, memory, operating system, and the states that make times unsteady."""
    import psutil

    flags = cpu_flags()
    nodes = [path.name for path in Path("/sys/devices/system/node").glob("node[0-9]*")]
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "logical_cpus": logical_cpus(),
        "usable_cores": usable_cores(),
        "numa_nodes": len(nodes) or 1,
        "instructions": sorted(flag for flag in flags if flag.startswith(("avx2", "avx512", "amx", "avx_vnni"))),
        "frequency_governor": frequency_governor(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "system": _system_name(),
        "container": Path("/.dockerenv").exists() or Path("/run/.containerenv").exists(),
        "host": platform.node(),
    }


def with_device(machine: dict[str, Any], device: Device) -> dict[str, Any]:
    """The machine, as `hardware` tells it, and the device in it: name, bytes of memory, and driver where one is known.

    The host itself is no further device.
    """
    if device.is_host:
        return machine
    told = device.properties()
    driver = {"driver": told.driver} if told.driver else {}
    return {**machine, "device": told.name, "device_memory_bytes": told.memory_bytes, **driver}


def _system_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return platform.system()


def variables() -> dict[str, str]:
    """Environment variables that change what is measured and are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
