"""Completes the settings: which combinations make no sense, and what the machine decides where the user did not.

`impossible` needs no machine and no heavy import, so that a mistake is answered at once; `complete` looks at the
devices that are there. Each value that was decided here carries its reason, which the banner and the results show.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet3d import places
from unet3d.config.parse import Given
from unet3d.devices import host
from unet3d.errors import UserErrors
from unet3d.planning import mlperf, placement

STANDARD_SHAPE = (224, 224, 160)
NAMED_WEIGHTS = ("random", "sample")


@dataclass
class Settings:
    """Every setting with the value that is used, where it came from, and why where the machine decided it."""

    values: dict[str, Any]
    sources: dict[str, str]
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    device: Any = None

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def decide(self, name: str, value: Any, reason: str) -> None:
        """Fill in what the user left open."""
        self.values[name] = value
        self.reasons[name] = reason


def impossible(given: Mapping[str, Given]) -> list[str]:
    """One line for each combination that cannot run on any machine, and each named file or folder that is not there."""
    value = {name: item.value for name, item in given.items()}
    problems = []
    if value["precision"] == "int8" and value["engine"] != "openvino":
        problems.append(f"PRECISION=int8 with ENGINE={value['engine']} is not possible; int8 runs on ENGINE=openvino")
    if value["engine"] == "onnxruntime" and value["precision"] not in (None, "fp32"):
        problems.append(
            f"PRECISION={value['precision']} with ENGINE=onnxruntime is not possible, its CPU kernels for "
            "3D convolutions are fp32; use PRECISION=fp32 or ENGINE=openvino"
        )
    if value["engine"] != "torch" and given["jit"].source != "default" and value["jit"] != "none":
        problems.append(
            f"JIT={value['jit']} with ENGINE={value['engine']} is not possible; JIT is PyTorch's, use JIT=none or ENGINE=torch"
        )
    if value["engine"] != "torch" and value["ipex"]:
        problems.append(f"IPEX=yes with ENGINE={value['engine']} is not possible; use IPEX=no or ENGINE=torch")
    if value["ipex"] and value["platform"] == "CUDA":
        problems.append("IPEX=yes with PLATFORM=CUDA is not possible; it is for Flex, Max and CPU, use IPEX=no")
    problems += placement.refuse_unclear(given)
    problems += mlperf.refuse(value, value["min_duration"] is not None)
    if not value["dummy"]:
        problems += _without_data(value, given)
    elif value["save_segmentations"]:
        problems.append(
            "SAVE_SEGMENTATIONS=yes with DUMMY=yes is not possible; random volumes have no segmentation, "
            "use DUMMY=no with DATASET_DIR"
        )
    if value["weights"] is not None and value["weights"].casefold() not in NAMED_WEIGHTS:
        if not Path(value["weights"]).expanduser().exists():
            problems.append(
                f"WEIGHTS: {value['weights']!r} is not there; use a fold_1.zip, its unpacked folder, sample or random"
            )
    output = value["output_dir"]
    if output.exists() and not output.is_dir():
        problems.append(f"OUTPUT_DIR: {str(output)!r} is a file; name a folder")
    return problems


def _without_data(value: Mapping[str, Any], given: Mapping[str, Given]) -> list[str]:
    problems = []
    if value["dataset_dir"] is None:
        problems.append(
            "DUMMY=no needs volumes: set DATASET_DIR to the folder that holds HGG and LGG "
            "(./setup.sh --sample-data makes one to try), or use DUMMY=yes"
        )
    elif not value["dataset_dir"].is_dir():
        problems.append(f"DATASET_DIR: {str(value['dataset_dir'])!r} is not a folder; name the one that holds HGG and LGG")
    if tuple(value["volume_shape"]) != STANDARD_SHAPE:
        problems.append(
            f"VOLUME_SHAPE with DUMMY=no is not possible; a data set's volumes are "
            f"{','.join(map(str, STANDARD_SHAPE))}, leave it out"
        )
    if value["batch_size"] != 1 and value["num_images"] != "all" and value["num_images"] < value["batch_size"]:
        problems.append(
            f"BATCH_SIZE={value['batch_size']} is more than NUM_IMAGES={value['num_images']}; "
            "lower the first or raise the second"
        )
    return problems


def complete(given: Mapping[str, Given]) -> Settings:
    """The settings with everything filled in that depends on the machine.

    Raises:
        UserErrors: what this machine cannot run, a line each.
    """
    from unet3d.devices import platforms

    settings = Settings({name: item.value for name, item in given.items()}, {name: item.source for name, item in given.items()})
    settings.device, platform, reason = platforms.select(settings.platform)
    if settings.platform is None:
        settings.decide("platform", platform, reason)
    _decide_precision(settings)
    _decide_ipex(settings)
    _decide_weights(settings)
    if settings.threads is None:
        settings.decide("threads", host.usable_cores(), "physical cores that this process may use")
    if settings.engine != "torch":
        settings.decide("jit", "none", f"ENGINE={settings.engine} compiles by itself")
    if settings.preprocessed_dir is None and settings.dataset_dir is not None:
        settings.decide("preprocessed_dir", settings.dataset_dir / "build" / "preprocessed_data", "beside the data")
    problems = []
    if settings.streams > settings.threads and settings.platform == "CPU":
        problems.append(
            f"STREAMS={settings.streams} is more than the {settings.threads} CPU threads; lower STREAMS or raise THREADS"
        )
    problems += placement.decide(settings)
    if problems:
        raise UserErrors(problems)
    return settings


def _decide_precision(settings: Settings) -> None:
    if settings.precision is not None:
        return
    if settings.engine == "onnxruntime":
        settings.decide("precision", "fp32", "the only one that ENGINE=onnxruntime has for 3D convolutions")
        return
    if settings.platform != "CPU":
        settings.decide("precision", "fp16", f"default on {settings.platform}")
        return
    instructions = host.bf16_instructions()
    if instructions:
        settings.decide("precision", "bf16", f"this CPU has {instructions}")
    else:
        settings.decide("precision", "fp32", "this CPU has neither AMX nor AVX512-BF16")


def _decide_weights(settings: Settings) -> None:
    if settings.weights is not None:
        return
    if places.FETCHED_WEIGHTS.exists():
        settings.decide("weights", str(places.FETCHED_WEIGHTS), "fetched by setup.sh")
    else:
        settings.decide("weights", "random", "setup.sh has fetched none")


def _decide_ipex(settings: Settings) -> None:
    installed = importlib.util.find_spec("intel_extension_for_pytorch") is not None
    if settings.ipex and not installed:
        raise UserErrors(
            [
                "IPEX=yes, but intel-extension-for-pytorch is not installed; "
                "pip install -r requirements-ipex.txt in an environment of its own, or use IPEX=no"
            ]
        )
    if settings.ipex is not None:
        return
    if settings.platform in ("Flex", "Max") and settings.engine == "torch":
        if installed:
            settings.decide("ipex", True, f"installed, default on {settings.platform}")
        else:
            settings.decide("ipex", False, "not installed; native torch.xpu is used")
            settings.warnings.append(
                (
                    "ipex-missing",
                    "Intel Extension for PyTorch is not installed: native torch.xpu "
                    "is measured. Install requirements-ipex.txt to measure it, or set IPEX=no.",
                )
            )
    else:
        settings.decide("ipex", False, f"default on {settings.platform}")
