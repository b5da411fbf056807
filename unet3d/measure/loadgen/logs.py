"""What LoadGen's logs say: figures of a performance run, and the predictions of an accuracy run with MLPerf's Dice."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unet3d.brats import segmentations
from unet3d.brats.preprocessing.volume import inner_slices
from unet3d.errors import UserError

if TYPE_CHECKING:
    from unet3d.measure.accuracy import Cases

DETAIL, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_accuracy.json"
MARK = ":::MLLOG "
CLASSES = 4


def details(folder: Path) -> dict[str, Any]:
    """Every key of LoadGen's detailed log with its last value; all errors and warnings under 'problems'.

    Raises:
        UserError: when the log is not there or was cut off.
    """
    entries: dict[str, Any] = {"problems": []}
    try:
        for line in (folder / DETAIL).read_text(encoding="utf-8").splitlines():
            if line.startswith(MARK):
                entry = json.loads(line.removeprefix(MARK))
                entries[entry["key"]] = entry["value"]
                if entry["metadata"]["is_error"] or entry["metadata"]["is_warning"]:
                    entries["problems"].append(str(entry["value"]))
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{folder / DETAIL}: LoadGen's log is missing or cut off; free some space or name another folder with OUTPUT_DIR"
        ) from None
    return entries


def predictions(folder: Path, shape: Sequence[int], dtype: type = np.float16) -> Iterator[tuple[int, np.ndarray]]:
    """Sample index and logits [4, z, y, x] of each entry of an accuracy log, one at a time as the log is large.

    shape: of the padded volume. dtype: that the logits were logged in.

    Raises:
        UserError: when the log is not there, was cut off or holds something else.
    """
    path = folder / ACCURACY
    try:
        with open(path, encoding="ascii") as log:
            closed = False
            for line in log:
                text = line.strip().rstrip(",")
                closed = text == "]"
                if text in ("[", "]", ""):
                    continue
                entry = json.loads(text)
                logits: np.ndarray = np.frombuffer(bytes.fromhex(entry["data"]), dtype).reshape(CLASSES, *shape)
                yield int(entry["qsl_idx"]), logits
        if not closed:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: LoadGen's accuracy log is missing, cut off or of other volumes; free some space or name "
            "another folder with OUTPUT_DIR"
        ) from None


def mlperf_dice(folder: Path, cases: Cases) -> dict[str, dict[str, float | None]]:
    """Dice of each case, computed from the accuracy log as MLPerf's reference for this benchmark does.

    That is: float16 logits are cut to the case's own size, nnU-Net's `save_segmentation_nifti_from_softmax` writes the
    segmentation in the original space, and nnU-Net's `evaluate_case` compares it with the truth in nnU-Net's labels
    (accuracy-brats.py in github.com/mlcommons/inference). None stands for its NaN.

    Raises:
        UserError: when the log is not whole or does not hold each case once.
    """
    from unet3d.brats.preprocessing.nnunet import quiet

    with quiet():
        from nnunet.evaluation.region_based_evaluation import evaluate_case, get_brats_regions
        from nnunet.inference.segmentation_export import save_segmentation_nifti_from_softmax

    regions = list(get_brats_regions().values())
    scores_of: dict[str, dict[str, float | None]] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".scoring-") as scratch:
        predicted, truth = Path(scratch) / "prediction.nii.gz", Path(scratch) / "truth.nii.gz"
        for index, logits in predictions(folder, cases.store.padded_shape):
            if not 0 <= index < len(cases.names) or cases.names[index] in scores_of:
                raise UserError(f"{folder / ACCURACY}: sample {index} is unknown or there twice; run again")
            name = cases.names[index]
            properties = copy.deepcopy(cases.store.load(name).properties)
            inner = inner_slices(properties["size_after_resampling"], logits.shape[1:])
            with quiet():
                save_segmentation_nifti_from_softmax(logits[:, *inner], str(predicted), properties, 3, verbose=False)
                _write_truth(cases.by_name[name].truth, properties, truth)
                scores = evaluate_case(str(predicted), str(truth), regions)
            scores_of[name] = {
                region: None if np.isnan(score) else float(score)
                for region, score in zip(("WT", "TC", "ET"), scores, strict=True)
            }
    missing = [name for name in cases.names if name not in scores_of]
    if missing:
        raise UserError(
            f"{folder / ACCURACY}: {len(missing)} of {len(cases.names)} cases are not in LoadGen's log, the "
            f"first is {missing[0]}; run again"
        )
    return scores_of


def _write_truth(source: Path, properties: dict[str, Any], target: Path) -> None:
    """MLPerf's ground truth files are those of nnU-Net's task: the true segmentation with nnU-Net's labels."""
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(segmentations.read(source, properties)), str(target))
