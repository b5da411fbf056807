"""TUNE=yes is refused in one line where there are no forms to choose from."""

import pytest
from made_gpu import HostGpu
from making import asked_of

from unet3d.devices.cpu import CpuDevice
from unet3d.engines import registry
from unet3d.engines.base import EngineSettings, Request
from unet3d.errors import UserErrors

NEEDED = "TUNE=yes times the forms that our network has on a GPU"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"platform": "CPU"}, f"{NEEDED}, with PLATFORM=CPU there is one; use TUNE=no, or PLATFORM=CUDA, Flex or Max"),
        ({"network": "reference"}, f"{NEEDED}, with NETWORK=reference there is one; use TUNE=no or NETWORK=fast"),
        ({"ipex": True, "platform": "Max"}, f"{NEEDED}, with IPEX=yes there is one; use TUNE=no or IPEX=no"),
        ({"precision": "fp32"}, f"{NEEDED}, in fp32 there is one; use TUNE=no, or PRECISION=fp16 or bf16"),
        ({"platform": "CPU", "network": "reference", "precision": "fp32"}, f"{NEEDED}, with PLATFORM=CPU there is one"),
        (
            {"engine": "openvino"},
            "TUNE=yes with ENGINE=openvino is not possible, it is for forms of our own; use TUNE=no or ENGINE=torch",
        ),
    ],
)
def test_tuning_is_refused_where_there_is_nothing_to_choose(asked, told):
    [line] = registry.refuse_settings(EngineSettings(**{"engine": "torch", "tune": True, **asked}))
    assert line.startswith(told)
    assert registry.refuse_settings(EngineSettings(**{"engine": "torch", **asked})) == []


def test_tuning_is_refused_before_anything_is_looked_at():
    with pytest.raises(UserErrors) as refused:
        asked_of(tune="yes", platform="CPU")
    assert str(refused.value).count("TUNE=yes") == 1
    assert asked_of(tune="yes", platform="CUDA").tune and not asked_of().tune


def test_tuning_is_refused_where_the_machine_has_a_cpu_alone():
    assert [line[: len(NEEDED)] for line in registry.refuse(Request("torch", CpuDevice(), "bf16", tune=True))][:1] == [NEEDED]


def test_tuning_needs_triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    [line] = registry.refuse(Request("torch", HostGpu(), "fp16", tune=True))
    assert line.startswith("TUNE=yes, but Triton is not installed")
