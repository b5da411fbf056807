"""The five-fold cross-validation split that the network was trained with: which cases a fold holds out.

nnU-Net 1.7.1 (nnUNetTrainerV2.do_split) splits the sorted case names by scikit-learn's
KFold(n_splits=5, shuffle=True, random_state=12345). `folds/` at the top of the repository has the result for the 335
training cases of BraTS 2019, as MLPerf's reference ships it; other data sets are split in the same way.
"""

from collections.abc import Iterable
from pathlib import Path

from unet3d import files, places
from unet3d.errors import UserError

FOLDS = 5


def fold_names(names: Iterable[str], fold: int) -> list[str]:
    """Names held out for validation by `fold` (0 to 4) among `names`, the names of a whole data set.

    Where any is a BraTS 2019 training case, its fold is BraTS 2019's, even when the data set is incomplete: a new
    split would score the network on cases it was trained with. Otherwise the names are split afresh.
    Raises UserError for an unknown fold, or when the fold is empty.
    """
    if fold not in range(FOLDS):
        raise UserError(f"FOLD is {fold}; allowed is 0 to {FOLDS - 1}")
    names = set(names)
    published = [brats2019(n) for n in range(FOLDS)]
    if names.isdisjoint(name for held_out in published for name in held_out):
        return split(names)[fold]
    present = [name for name in published[fold] if name in names]
    if not present:
        raise UserError(f"the data set holds none of the {len(published[fold])} cases of fold {fold}; use another FOLD")
    return present


def brats2019(fold: int) -> list[str]:
    """The 67 names of a fold of BraTS 2019, in order."""
    return _file(places.FOLDS, fold).read_text().split()


def split(names: Iterable[str]) -> list[list[str]]:
    """Sorted names of each of the five folds. Raises UserError for fewer than five names."""
    from sklearn.model_selection import KFold

    names = sorted(names)
    if len(names) < FOLDS:
        raise UserError(f"the data set has {len(names)} cases; at least {FOLDS} are needed to split it into folds")
    folds = KFold(n_splits=FOLDS, shuffle=True, random_state=12345).split(names)
    return [[names[i] for i in held_out] for _, held_out in folds]


def write(names: Iterable[str], folder: str | Path = places.FOLDS) -> None:
    """Writes `fold{0..4}_validation.txt`, one name a line: how the files in `folds/` were made."""
    for fold, held_out in enumerate(split(names)):
        with files.whole_file(_file(Path(folder), fold)) as partial:
            partial.write_text("".join(f"{name}\n" for name in held_out), encoding="utf-8")


def _file(folder: Path, fold: int) -> Path:
    return folder / f"fold{fold}_validation.txt"
