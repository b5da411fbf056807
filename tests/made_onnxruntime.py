"""A made-up ONNX Runtime for GPUs: its arithmetic is the real one's on the CPU, its providers are what a test says.

And a made-up GPU, whose memory and queues are the host's.
"""

import importlib.machinery
import importlib.metadata
import sys
from types import ModuleType, SimpleNamespace

import onnx
import onnxruntime as real
import torch
from made_queues import Queues

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class Stream(int):
    """A queue; its address is its number."""

    @property
    def cuda_stream(self):
        return int(self)

    def synchronize(self):
        self.device.note("wait for the stream")


class Gpu(Queues):
    """See `made_queues.Queues`. Copies to it are copies, so that who takes the host's memory for the device's is found."""

    kind = "cuda"
    taken = 0

    @property
    def torch_device(self):
        return torch.device("cpu")

    def platform(self):
        return "CUDA"

    def new_stream(self):
        stream = Stream(super().new_stream())
        stream.device = self
        return stream

    def upload(self, tensor):
        self.note("upload")
        return tensor.clone()

    def memory_outside_pytorch(self):
        return self.taken


class Module(ModuleType):
    """What a test can change: the providers that there are, those that load, what they are left, and what runs raise."""

    def __init__(self, device):
        super().__init__("onnxruntime")
        self.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
        self.__version__, self.cuda_version = "1.31.1", "13.0"
        self.SessionOptions = real.SessionOptions
        self.InferenceSession = self.session
        self.device, self.sessions = device, []
        self.available, self.broken = [TENSORRT, CUDA, CPU], []
        self.left_to = {}  # provider by operator, of nodes that the first provider has no kernel for
        self.told = {}  # options that differ from what was asked for
        self.error = None
        self.logged = []

    def get_available_providers(self):
        return self.available

    def session(self, *arguments, **named):
        self.sessions.append(Session(self, *arguments, **named))
        return self.sessions[-1]

    def stands_in(self, monkeypatch, distributions=("onnxruntime-gpu", "tensorrt-cu13")):
        """Be what `import onnxruntime` finds, installed from these distributions, with a torch for CUDA 13 beside it."""
        monkeypatch.setitem(sys.modules, "onnxruntime", self)
        tensorrt = ModuleType("tensorrt")
        tensorrt.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        version = importlib.metadata.version

        def installed(name):
            if name.startswith(("onnxruntime", "tensorrt")) and name not in distributions:
                raise importlib.metadata.PackageNotFoundError(name)
            return "1.31.1" if name in distributions else version(name)

        monkeypatch.setattr(importlib.metadata, "version", installed)


class Session:
    """Runs on the real CPU provider and tells what the module says."""

    def __init__(self, module, path, options, providers, enable_fallback):
        self.module, self.asked, self.fallback = module, dict(providers), enable_fallback
        self.preferred = providers[0][0]
        self.recorded = options.get_session_config_entry("session.record_ep_graph_assignment_info")
        self.real = real.InferenceSession(path, options, providers=[CPU])
        self.nodes = [node for node in onnx.load(path, load_external_data=False).graph.node if node.op_type != "Identity"]

    def get_providers(self):
        return [*(name for name in self.asked if name not in self.module.broken), CPU]

    def get_provider_options(self):
        return {name: {**options, **self.module.told} for name, options in self.asked.items()}

    def get_inputs(self):
        return self.real.get_inputs()

    def get_outputs(self):
        return self.real.get_outputs()

    def get_provider_graph_assignment_info(self):
        assert self.recorded == "1"
        for node in self.nodes:
            told = SimpleNamespace(op_type=node.op_type, name=node.name)
            provider = self.module.left_to.get(node.op_type, self.preferred)
            yield SimpleNamespace(ep_name=provider, get_nodes=lambda told=told: [told])

    def io_binding(self):
        return Binding(self)

    def run_with_iobinding(self, binding):
        if self.module.error:
            raise self.module.error
        self.module.device.note("run")
        self.real.run_with_iobinding(binding.real)


class Binding:
    """Memory that a GPU's provider would read and write."""

    def __init__(self, session):
        self.device, self.real = session.module.device, session.real.io_binding()

    def bind_input(self, *where):
        self.device.note("bind input")
        self.real.bind_input(*where)

    def bind_output(self, *where):
        self.device.note("bind output")
        self.real.bind_output(*where)
