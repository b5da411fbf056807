"""GPUs for tests on machines without one: a runtime that records what it is told, and a device whose memory is the host's."""

from types import SimpleNamespace

import torch

from unet3d.devices.accelerator import AcceleratorDevice


class FakeGraph:
    """Replays as a GPU does: the recorded call writes its result to the place it had when it was recorded."""

    def replay(self):
        self.replays = getattr(self, "replays", 0) + 1
        self.output.copy_(self.call())


class FakeRuntime:
    """What torch.cuda and torch.xpu offer, for one device whose memory is the host's."""

    CUDAGraph = XPUGraph = FakeGraph

    def __init__(self, **properties):
        self.told = SimpleNamespace(
            **{
                "name": "Fake",
                "total_memory": 2**30,
                "multi_processor_count": 132,
                "major": 9,
                "minor": 0,
                "gpu_eu_count": 448,
                "version": "12.60.7",
                "driver_version": "1.2",
                "max_num_sub_devices": 2,
                **properties,
            }
        )
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments)) or 7

    def is_available(self):
        return True

    def device_count(self):
        return 1

    def get_device_properties(self, index):
        return self.told


class HostGpu(AcceleratorDevice):
    """A GPU that the engine believes in: its memory and arithmetic are the host's, its graphs replay."""

    kind = "cuda"
    compute_unit_name = "processors"
    visibility_variable = None
    telemetry_sources = ()
    driver_version = None
    fail = None

    def __init__(self):
        self.captures = 0
        super().__init__(0)

    fake = FakeRuntime()
    runtime = classmethod(lambda cls: cls.fake)
    torch_device = torch.device("cpu")

    @classmethod
    def why_unavailable(cls):
        return ""

    @classmethod
    def place_name(cls, name):
        return f"stand-in {name}"

    @classmethod
    def triton_programs(cls, index):
        return 4

    def platform(self):
        return "CUDA"

    def driver(self):
        return self.driver_version

    def compute_units(self):
        return 1

    def architecture(self):
        return None

    def _open_power_source(self):
        return None

    def pin(self, tensor):
        return tensor

    def upload(self, tensor):
        return tensor

    def capture(self, call):
        if self.fail:
            raise RuntimeError(self.fail)
        self.captures += 1
        graph = FakeGraph()
        graph.call, graph.output = call, call()
        return graph, graph.output
