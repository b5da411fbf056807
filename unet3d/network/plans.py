"""nnU-Net's plans: what of them decides the network, and complete plans of our own making."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from unet3d import workload
from unet3d.errors import UserError

MAX_FEATURES = 320


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


def _triples(value: Iterable[Iterable[int]], name: str, allowed: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    triples = tuple(tuple(int(i) for i in kernel) for kernel in value)
    if not triples or any(len(t) != 3 or any(i not in allowed for i in t) for t in triples):
        raise ValueError(f"{name} is {value!r}, allowed are three values of {allowed} for each stage")
    return tuple((z, y, x) for z, y, x in triples)


def architecture(plans: dict, name: str = "plans.pkl") -> Architecture:
    """The network's shape from plans of the last (full-resolution) stage, as nnU-Net 1.7.1's process_plans reads them.

    `max_num_features` is a key of our own: nnU-Net has 320 built in, and so have plans without the key.
    Raises UserError when a key is missing or holds what no network can be made from.
    """
    try:
        stage = plans["plans_per_stage"][max(plans["plans_per_stage"])]
        pools = _triples(stage["pool_op_kernel_sizes"], "pool_op_kernel_sizes", (1, 2))
        kernels = _triples(stage["conv_kernel_sizes"], "conv_kernel_sizes", (1, 3))
        shape = Architecture(
            input_channels=int(plans["num_modalities"]),
            classes=int(plans["num_classes"]) + 1,  # nnU-Net does not count the background
            base_features=int(plans["base_num_features"]),
            max_features=int(plans.get("max_num_features", MAX_FEATURES)),
            convs_per_stage=int(plans.get("conv_per_stage", 2)),
            pool_kernels=pools,
            conv_kernels=kernels,
        )
        if len(kernels) != len(pools) + 1:
            raise ValueError(f"{len(kernels)} convolution kernels for {len(pools)} poolings, one more is needed")
        limits = (
            ("num_modalities", shape.input_channels, 1, 64),
            ("num_classes", shape.classes - 1, 1, 255),
            ("base_num_features", shape.base_features, 1, 1024),
            ("max_num_features", shape.max_features, 1, 4096),
            ("conv_per_stage", shape.convs_per_stage, 2, 8),
            ("poolings", len(pools), 1, 8),
        )
        for key, value, low, high in limits:
            if not low <= value <= high:
                raise ValueError(f"{key} is {value}, allowed is {low} to {high}")
        return shape
    except KeyError as error:
        raise UserError(f"{name}: not the plans of a 3D nnU-Net, {error} is missing; get a fresh copy.") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name}: not the plans of a 3D nnU-Net, {error}; get a fresh copy.") from None


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
