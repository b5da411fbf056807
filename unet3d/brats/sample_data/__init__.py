"""Synthetic cases in BraTS 2019's layout, for running accuracy mode without BraTS (which needs an account).

Anatomy: MNI152 T1, grey- and white-matter maps as shipped in the nilearn package, varied from case to case.
Tumours, contrasts, bias fields and noise: made up by a seeded generator. Nothing here stands for a patient, and
Dice measured on it says nothing about BraTS.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet3d import files, json_files
from unet3d.brats.dataset import GRADES
from unet3d.errors import BenchmarkError, UserError, shown
from unet3d.workload import MODALITIES

FULL_SIZE = (240, 240, 155)
DATASET_FILE = "dataset.json"
MOST_BYTES, WHAT = 2**20, "dataset file"
# Raised whenever a change alters the cases that a seed gives.
VERSION = 1
DEFAULT_CASES = 10
DEFAULT_SEED = 2019
# Left-posterior-superior axes, 1 mm: what BraTS' own files have (-239 is the last voxel of 240 along y).
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
DESCRIPTION = (
    "SYNTHETIC sample data in the layout of BraTS 2019. No patient: the anatomy is the MNI152 average brain "
    "(ICBM 2009a, as shipped with nilearn) bent and scaled at random; tumours, contrasts, bias fields and noise "
    "come from a seeded generator. For trying the benchmark out; Dice measured here says nothing about BraTS."
)


@dataclass(frozen=True)
class SampleCase:
    """One case to make. `number` counts from 1."""

    folder: Path
    number: int
    seed: int
    size: tuple[int, int, int]

    @property
    def grade(self) -> str:
        return "LGG" if self.number % 5 == 0 else "HGG"

    @property
    def has_enhancing_tumour(self) -> bool:
        return self.grade == "HGG" and self.number % 10 != 7

    @property
    def name(self) -> str:
        return f"Sample_{self.number:03d}"

    @property
    def path(self) -> Path:
        return self.folder / self.grade / self.name


def make(
    folder: str | Path,
    cases: int = DEFAULT_CASES,
    seed: int = DEFAULT_SEED,
    size: tuple[int, int, int] = FULL_SIZE,
    processes: int | None = None,
) -> list[str]:
    """Makes sample cases `folder`/{HGG,LGG}/Sample_NNN/Sample_NNN_{t1,t1ce,t2,flair,seg}.nii.gz.

    Images are int16, zero outside of the brain; seg is uint8 with BraTS' labels 0, 1, 2, 4. Every fifth case is LGG;
    LGG cases and one HGG case in ten have no enhancing tumour. Case n depends on (seed, n, size) alone, so cases can
    be added later; those already there are kept. A case appears whole or not at all.

    size: voxels along x, y, z; a smaller one gives a smaller picture of the same brain (still called 1 mm), for tests.
    Returns the names `<grade>__<case>` of the cases asked for, sorted.
    Raises UserError for cases < 1, a negative seed, a size below 24 voxels, other data there, or no right to write.
    """
    from unet3d.brats import workers

    folder = Path(folder)
    if cases < 1 or cases > 999:
        raise UserError(f"number of sample cases is {cases}; allowed is 1 to 999")
    if not 0 <= seed < 2**63:
        raise UserError(f"seed of sample cases is {shown(seed)}; allowed is 0 to 2^63 - 1")
    if not str(folder).isprintable():
        raise UserError(f"folder of sample cases is '{shown(folder)}'; allowed is a path of printable characters")
    if len(size) != 3 or min(size) < 24:
        raise UserError(f"size of sample cases is {size}; allowed are three numbers of at least 24")
    x, y, z = (int(voxels) for voxels in size)
    wanted = [SampleCase(folder, number, seed, (x, y, z)) for number in range(1, cases + 1)]
    _claim(folder, seed, (x, y, z))
    missing = [case for case in wanted if not case.path.is_dir()]
    for case, made in workers.run(_make_case, missing, processes, "Making sample data"):
        if isinstance(made, workers.Crash):
            raise BenchmarkError(
                f"{case.name} was not made: its process crashed ({made.reason}); the others are there, try again"
            )
    return sorted(f"{case.grade}__{case.name}" for case in wanted)


def is_sample(folder: str | Path) -> bool:
    """Whether a data set was made by `make`, as its dataset file says."""
    try:
        told = json_files.read(Path(folder) / DATASET_FILE, MOST_BYTES, WHAT)
    except UserError:
        return False
    return isinstance(told, dict) and told.get("synthetic") is True


def _claim(folder: Path, seed: int, size: tuple[int, int, int]) -> None:
    """Writes the dataset file, or compares it with the one there; clears up after runs that were killed."""
    identity = {"synthetic": True, "description": DESCRIPTION, "generator_version": VERSION, "seed": seed,
                "size": list(size)}  # fmt: skip
    file = folder / DATASET_FILE
    if os.path.lexists(file):
        present = json_files.read(file, MOST_BYTES, WHAT)
        if present != identity:
            keys = ("generator_version", "seed", "size")
            there = {key: present.get(key) for key in keys} if isinstance(present, dict) else present
            asked = {key: identity[key] for key in keys}
            raise UserError(f"{folder} holds other sample data ({shown(there)}, asked for {asked}); remove it or name another")
    elif any((folder / grade).exists() for grade in GRADES):
        raise UserError(f"{folder} holds a data set that is not sample data (no {DATASET_FILE}); name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(folder)
        with files.whole_file(file) as partial:
            partial.write_text(json_files.text(identity), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write sample data to {folder}: {error.strerror}; name another folder") from None


def _make_case(case: SampleCase) -> None:
    """Makes one case in a hidden folder, then moves it into place in one step."""
    import nibabel

    from unet3d.brats.sample_data.anatomy import make_brain
    from unet3d.brats.sample_data.signal import make_modality
    from unet3d.brats.sample_data.tumour import make_tumour

    rng = np.random.default_rng([case.seed, case.number])
    brain = make_brain(rng, case.size)
    tumour = make_tumour(rng, brain, case.has_enhancing_tumour)
    images = {modality: make_modality(rng, modality, brain, tumour) for modality in MODALITIES}
    images["seg"] = tumour.labels

    try:
        # Where another run of the same seed is first, its case is the same.
        with files.whole_folder(case.path, drafts=case.folder) as partial:
            for kind, box in images.items():
                image = nibabel.Nifti1Image(_place(box, case.size), AFFINE)
                image.set_qform(AFFINE, code=1)
                image.set_sform(AFFINE, code=1)
                image.header.set_xyzt_units("mm")
                nibabel.save(image, partial / f"{case.name}_{kind}.nii.gz")
    except OSError as error:
        raise UserError(f"cannot write {case.path}: {error.strerror}; free some space or name another folder") from None


def _place(box: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """`box` in the middle of zeros of the given size."""
    before = [(n - b) // 2 for n, b in zip(size, box.shape, strict=True)]
    return np.pad(box, [(low, n - b - low) for n, b, low in zip(size, box.shape, before, strict=True)])
