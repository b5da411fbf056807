"""Engines are found by name and refuse before a machine is looked at; the table of precisions is what they run."""

import subprocess
import sys

import pytest

from unet3d.config import names, precisions
from unet3d.config.precisions import PRECISIONS
from unet3d.config.settings import BY_NAME
from unet3d.devices.cpu import CpuDevice
from unet3d.engines import registry
from unet3d.engines.base import EngineSettings, Request
from unet3d.errors import UserErrors


def test_settings_name_the_engines_that_are_registered():
    assert registry.names() == names.ENGINES
    assert [registry.engine_class(name).name for name in names.ENGINES] == list(names.ENGINES)


def test_every_precision_is_run_by_an_engine_and_engines_run_no_other():
    run = {precision for name in registry.names() for precision in registry.engine_class(name).precisions}
    assert run == set(PRECISIONS)
    assert [BY_NAME["precision"].parse(name) for name in PRECISIONS] == list(PRECISIONS)


def test_a_precision_is_of_the_size_that_pytorch_says():
    for precision in PRECISIONS.values():
        assert precision.dtype().itemsize == precision.bytes
        assert precision.half == (precision.dtype().is_floating_point and precision.bytes == 2)
        assert (precision.openvino_hint is None) == (not precision.dtype().is_floating_point)


def test_type_names_of_libraries_are_told_apart():
    assert [precisions.name_of_type(name) for name in ("float", "c10::BFloat16", "f16", "u8", "double", "bool")] == [
        "fp32",
        "bf16",
        "fp16",
        "int8",
        "fp64",
        "bool",
    ]
    every = [name for precision in PRECISIONS.values() for name in precision.type_names]
    assert len(every) == len(set(every))
    assert all(str(precision.dtype()) == f"torch.{precision.torch_type}" for precision in PRECISIONS.values())


INT8 = "PRECISION=int8 with ENGINE={} is not possible; int8 runs on ENGINE=openvino or torch"
ONNX = (
    "PRECISION={} with ENGINE=onnxruntime is not possible, it has no bf16 for all of this network's layers; "
    "use PRECISION=fp32 or ENGINE=openvino, on an NVIDIA GPU PRECISION=fp16"
)
PROVIDER = "ONNX_PROVIDER=tensorrt with {} is not possible; leave it out or use {}"
JIT = "JIT=trace with ENGINE={} is not possible; JIT is PyTorch's, use JIT=none or ENGINE=torch"
IPEX = "IPEX=yes with ENGINE={} is not possible; use IPEX=no or ENGINE=torch"
IPEX_CUDA = "IPEX=yes with PLATFORM=CUDA is not possible; it is for Flex, Max and CPU, use IPEX=no"


@pytest.mark.parametrize(
    ("asked", "reasons"),
    [
        ({"engine": "torch"}, []),
        ({"engine": "torch", "precision": "bf16", "jit": "compile", "ipex": True, "platform": "Max"}, []),
        ({"engine": "torch", "precision": "int8"}, []),
        ({"engine": "torch", "ipex": True, "platform": "CUDA"}, [IPEX_CUDA]),
        ({"engine": "openvino", "precision": "int8", "jit": "none", "ipex": False}, []),
        ({"engine": "openvino", "jit": "trace", "ipex": True}, [JIT.format("openvino"), IPEX.format("openvino")]),
        ({"engine": "openvino", "ipex": True, "platform": "CUDA"}, [IPEX.format("openvino"), IPEX_CUDA]),
        ({"engine": "onnxruntime", "precision": "bf16"}, [ONNX.format("bf16")]),
        ({"engine": "onnxruntime", "precision": "int8"}, [INT8.format("onnxruntime")]),
        ({"engine": "onnxruntime", "jit": "trace", "platform": "CUDA"}, [JIT.format("onnxruntime")]),
        ({"engine": "onnxruntime", "onnx_provider": "tensorrt", "precision": "fp16", "platform": "CUDA"}, []),
        ({"engine": "onnxruntime", "onnx_provider": "tensorrt"}, []),
        (
            {"engine": "onnxruntime", "onnx_provider": "tensorrt", "platform": "CPU"},
            [PROVIDER.format("PLATFORM=CPU", "PLATFORM=CUDA")],
        ),
        (
            {"engine": "torch", "onnx_provider": "tensorrt", "platform": "CUDA"},
            [PROVIDER.format("ENGINE=torch", "ENGINE=onnxruntime")],
        ),
    ],
)
def test_what_no_machine_can_run_is_said_without_one(asked, reasons):
    assert registry.refuse_settings(EngineSettings(**asked)) == reasons


def test_a_request_is_refused_for_its_settings_too():
    request = Request("onnxruntime", CpuDevice(), "fp32", jit="trace", ipex=True)
    assert registry.refuse(request)[:2] == [JIT.format("onnxruntime"), IPEX.format("onnxruntime")]
    with pytest.raises(UserErrors, match="JIT=trace"):
        registry.create(request)


def test_refusing_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from unet3d.engines import registry\n"
        "from unet3d.engines.base import EngineSettings\n"
        "for name in registry.names():\n"
        "    registry.refuse_settings(EngineSettings(name, 'int8', 'trace', True, 'CUDA'))\n"
        "print([name for name in ('torch', 'numpy', 'openvino', 'onnxruntime') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
