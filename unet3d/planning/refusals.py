"""What cannot run on any machine, told from the settings alone: no device is looked at, nothing heavy imported."""

from __future__ import annotations

from pathlib import Path

from unet3d.config.values import Asked
from unet3d.engines import registry
from unet3d.engines.base import EngineSettings
from unet3d.errors import shown
from unet3d.planning import mlperf, placement
from unet3d.workload import SHAPE

NAMED_WEIGHTS = ("random", "sample")


def impossible(asked: Asked) -> list[str]:
    """One line for each combination that cannot run on any machine, and each named file or folder that is not there."""
    jit = None if asked.sources["jit"] == "default" else asked.jit
    problems = registry.refuse_settings(
        EngineSettings(
            asked.engine, asked.precision, jit, asked.ipex, asked.platform, asked.network, asked.tune, asked.onnx_provider
        )
    )
    problems += placement.refuse_settings(asked)
    problems += mlperf.refuse_settings(asked)
    if not asked.dummy:
        problems += _without_data(asked)
    elif asked.save_segmentations:
        problems.append(
            "SAVE_SEGMENTATIONS=yes with DUMMY=yes is not possible; random volumes have no segmentation, "
            "use DUMMY=no with DATASET_DIR"
        )
    if weights_are_missing(asked.weights):
        problems.append(
            f"WEIGHTS: '{shown(asked.weights)}' is not there; use a fold_1.zip, its unpacked folder, sample or random"
        )
    if asked.output_dir.exists() and not asked.output_dir.is_dir():
        problems.append(f"OUTPUT_DIR: '{shown(asked.output_dir)}' is a file; name a folder")
    return problems


def weights_are_missing(weights: str | None) -> bool:
    """Whether a path is named that does not exist."""
    return weights is not None and weights.casefold() not in NAMED_WEIGHTS and not Path(weights).expanduser().exists()


def _without_data(asked: Asked) -> list[str]:
    problems = []
    if asked.dataset_dir is None:
        problems.append(
            "DUMMY=no needs volumes: set DATASET_DIR to the folder that holds HGG and LGG "
            "(./setup.sh --sample-data makes one to try), or use DUMMY=yes"
        )
    elif not asked.dataset_dir.is_dir():
        problems.append(f"DATASET_DIR: '{shown(asked.dataset_dir)}' is not a folder; name the one that holds HGG and LGG")
    if asked.volume_shape != SHAPE:
        problems.append(
            f"VOLUME_SHAPE with DUMMY=no is not possible; a data set's volumes are {','.join(map(str, SHAPE))}, leave it out"
        )
    if asked.batch_size != 1 and asked.num_images != "all" and asked.num_images < asked.batch_size:
        problems.append(
            f"BATCH_SIZE={asked.batch_size} is more than NUM_IMAGES={asked.num_images}; lower the first or raise the second"
        )
    return problems
