"""A data set in BraTS 2019's layout: `DATASET_DIR/{HGG,LGG}/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz`."""

import os
from dataclasses import dataclass
from pathlib import Path

from unet3d.errors import UserError, shown
from unet3d.workload import MODALITIES

GRADES = ("HGG", "LGG")


def default_store(dataset_dir: str | Path) -> Path:
    """Where preprocessed data is kept unless PREPROCESSED_DIR says otherwise; MLPerf's own place for it."""
    return Path(dataset_dir) / "build" / "preprocessed_data"


@dataclass(frozen=True)
class Case:
    """One patient's scan. `name` is `<grade>__<folder name>`, as nnU-Net's task and MLPerf's folds call it."""

    name: str
    grade: str
    folder: Path

    @property
    def images(self) -> list[Path]:
        """The four modalities' files in channel order; they need not exist."""
        return [self._file(modality) for modality in MODALITIES]

    @property
    def truth(self) -> Path:
        """The file of labels drawn by experts; it need not exist."""
        return self._file("seg")

    def _file(self, kind: str) -> Path:
        return self.folder / f"{self.folder.name}_{kind}.nii.gz"


def find_cases(dataset_dir: str | Path) -> list[Case]:
    """All cases of a data set, sorted by name, whether or not their files are whole.

    Raises UserError when the folder is absent or holds no case.
    """
    dataset_dir = Path(dataset_dir)
    layout = "expected {HGG,LGG}/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz inside"
    if not os.path.isdir(dataset_dir):  # noqa: PTH112 - where it may not be looked, and of a name with NUL, pathlib raises
        raise UserError(f"DATASET_DIR {shown(dataset_dir)} is not a folder; {layout}")
    try:
        cases = [
            Case(f"{grade}__{folder.name}", grade, folder)
            for grade in GRADES
            if (dataset_dir / grade).is_dir()
            for folder in (dataset_dir / grade).iterdir()
            if folder.is_dir() and not folder.name.startswith(".")
        ]
        if not cases:
            inner = [f for f in sorted(dataset_dir.iterdir()) if f.is_dir() and any((f / g).is_dir() for g in GRADES)]
            advice = f"; did you mean {shown(inner[0])}?" if inner else f"; {layout}"
            raise UserError(f"DATASET_DIR {shown(dataset_dir)} holds no cases{advice}")
    except OSError as error:
        raise UserError(
            f"DATASET_DIR {shown(dataset_dir)} cannot be read: {error.strerror} ({shown(error.filename)})"
        ) from None
    return sorted(cases, key=lambda case: case.name)
