"""nnU-Net's plans: what of them decides the network, and complete plans of our own making."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from unet3d import workload
from unet3d.errors import UserError, shown

MAX_FEATURES = 320
# Extents of volumes are multiples of 32, which can be halved five times.
MOST_POOLINGS = 5
# Far more stages than any network has; longer lists are not walked through.
MOST_STAGES = 64


@dataclass(frozen=True)
class Architecture:
    """What `Generic_UNet` is built from. Features double at every stage, up to `max_features`."""

    input_channels: int
    classes: int
    base_features: int
    max_features: int
    convs_per_stage: int
    pool_kernels: tuple[tuple[int, int, int], ...]
    conv_kernels: tuple[tuple[int, int, int], ...]


class _Wrong(Exception):
    """What is wrong with plans, in words."""


def _entry(plans: object, key: str, what: str = "plans") -> Any:
    if not isinstance(plans, Mapping):
        raise _Wrong(f"{what} is {_told(plans)}, a dict is needed")
    if key not in plans:
        raise _Wrong(f"'{key}' is missing")
    return plans[key]


def _whole(value: object, name: str, low: int, high: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise _Wrong(f"{name} is {_told(value)}, allowed is {low if low == high else f'{low} to {high}'}")
    return int(value)


def _items(value: object, name: str, most: int) -> list:
    if not isinstance(value, list | tuple | np.ndarray):
        raise _Wrong(f"{name} is {_told(value)}, a list is needed")
    # numpy has arrays of one number that has no length.
    count = 0 if isinstance(value, np.ndarray) and not value.ndim else len(value)
    if not 1 <= count <= most:
        raise _Wrong(f"{name} has {count} entries, allowed is 1 to {most}")
    return list(value)


def _triples(value: object, name: str, allowed: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    triples = []
    for entry in _items(value, name, MOST_STAGES):
        numbers = _items(entry, f"an entry of {name}", 3)
        if len(numbers) != 3 or any(isinstance(n, bool) or not isinstance(n, Integral) or n not in allowed for n in numbers):
            told = ", ".join(_told(n) for n in numbers)
            raise _Wrong(f"{name} has an entry [{told}], allowed are three values of {allowed} for each stage")
        z, y, x = (int(n) for n in numbers)
        triples.append((z, y, x))
    return tuple(triples)


def _told(value: object) -> str:
    """A value in a message. Lists and dicts may hold themselves many times over: their size is told."""
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    return (
        shown(repr(value), 80) if isinstance(value, int | float | complex | str | bytes | None) else f"a {type(value).__name__}"
    )


def architecture(plans: object, name: str = "plans.pkl") -> Architecture:
    """The network's shape from plans of the last (full-resolution) stage, as nnU-Net 1.7.1's process_plans reads them.

    The only reader of plans: nnU-Net's classes get what comes out here. `max_num_features` is a key of our own: nnU-Net
    has 320 built in, and so have plans without the key.
    Raises UserError when a key is missing or holds what no network for these volumes can be made from.
    """
    try:
        return _architecture(plans)
    except _Wrong as error:
        raise UserError(f"{name}: not the plans of a 3D nnU-Net for BraTS, {error}; get a fresh copy.") from None


def _architecture(plans: object) -> Architecture:
    stages = _entry(plans, "plans_per_stage")
    if not isinstance(stages, Mapping) or not 1 <= len(stages) <= MOST_STAGES:
        raise _Wrong(f"plans_per_stage is {_told(stages)}, a dict of 1 to {MOST_STAGES} is needed")
    last = max(_whole(key, "a key of plans_per_stage", 0, MOST_STAGES) for key in stages)
    stage = stages[last]
    pools = _triples(_entry(stage, "pool_op_kernel_sizes", "a stage"), "pool_op_kernel_sizes", (1, 2))
    kernels = _triples(_entry(stage, "conv_kernel_sizes", "a stage"), "conv_kernel_sizes", (1, 3))
    if len(kernels) != len(pools) + 1:
        raise _Wrong(f"{len(kernels)} convolution kernels for {len(pools)} poolings, one more is needed")
    for axis in range(3):
        halvings = sum(kernel[axis] == 2 for kernel in pools)
        _whole(halvings, f"the number of poolings along {'zyx'[axis]}", 0, MOST_POOLINGS)
    optional = {"max_num_features": MAX_FEATURES, "conv_per_stage": 2, **plans}  # type: ignore[dict-item]
    modalities, tissues = len(workload.MODALITIES), len(workload.CLASSES) - 1
    return Architecture(
        input_channels=_whole(_entry(plans, "num_modalities"), "num_modalities", modalities, modalities),
        classes=_whole(_entry(plans, "num_classes"), "num_classes", tissues, tissues) + 1,  # nnU-Net leaves the background out
        base_features=_whole(_entry(plans, "base_num_features"), "base_num_features", 1, 1024),
        max_features=_whole(optional["max_num_features"], "max_num_features", 1, 4096),
        convs_per_stage=_whole(optional["conv_per_stage"], "conv_per_stage", 2, 8),
        pool_kernels=pools,
        conv_kernels=kernels,
    )


def random_plans(base_features: int = 32, max_features: int = MAX_FEATURES, poolings: int = 5) -> dict:
    """Complete nnU-Net plans of the BraTS network: with the defaults, those of MLPerf's 31,198,976 parameters.

    `base_features` and fewer `poolings` make a narrow or shallow network of the same class.
    """
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [poolings] * 3,
        "patch_size": list(workload.SHAPE),
        "median_patient_size_in_voxels": [138, 169, 138],
        "current_spacing": [1.0, 1.0, 1.0],
        "original_spacing": [1.0, 1.0, 1.0],
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": [[2, 2, 2]] * poolings,
        "conv_kernel_sizes": [[3, 3, 3]] * (poolings + 1),
    }
    modalities = dict(enumerate(workload.MODALITY_TITLES))
    foreground = list(workload.CLASSES[1:])
    plans = {
        "num_stages": 1,
        "num_modalities": len(workload.MODALITIES),
        "modalities": modalities,
        "normalization_schemes": OrderedDict((i, "nonCT") for i in modalities),
        "dataset_properties": {"all_classes": foreground, "modalities": modalities, "intensityproperties": None},
        "list_of_npz_files": [],
        "original_spacings": [],
        "original_sizes": [],
        "preprocessed_data_folder": "",
        "num_classes": len(foreground),
        "all_classes": foreground,
        "base_num_features": base_features,
        "use_mask_for_norm": OrderedDict((i, True) for i in modalities),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "data_identifier": "nnUNetData_plans_v2.mlperf.1",
        "plans_per_stage": {0: stage},
        "preprocessor_name": "GenericPreprocessor",
        "conv_per_stage": 2,
    }
    if max_features != MAX_FEATURES:
        plans["max_num_features"] = max_features
    return plans
