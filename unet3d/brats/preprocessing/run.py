"""Preprocesses the cases of a data set in processes; resumable, bad cases do not stop the others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from unet3d.brats import workers
from unet3d.brats.dataset import Case, find_cases
from unet3d.brats.preprocessing.store import Store, describe_sources
from unet3d.brats.preprocessing.volume import PADDED_SHAPE
from unet3d.errors import UserError, shown

LOG = "preprocessing.log"


@dataclass
class Report:
    """Names of cases preprocessed now, of those that were current already, and of bad ones with the reason."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def preprocess(
    dataset_dir: str | Path,
    store_dir: str | Path,
    names: Iterable[str] | None = None,
    processes: int | None = None,
    padded_shape: Sequence[int] = PADDED_SHAPE,
) -> Report:
    """Sees that the store has the named cases (default: all) as the data set has them now.

    processes: default as many as cores and memory allow; workers.HERE for none beside this one. A run that is killed
    loses only the cases under way, a case that crashes its process only itself; two runs at a time do double work but no
    harm. What libraries print goes to `preprocessing.log` in the store. A folder made by MLPerf's preprocessing is used
    as it is.
    Raises UserError when the data set cannot be found or the store not be written to, and OutOfMemory.
    """
    store = Store(store_dir, padded_shape)
    report = Report()
    if store.is_mlperf:
        present = store.names()
        for name in sorted(names if names is not None else present):
            if name in present:
                report.skipped.append(name)
            else:
                report.failed[name] = f"not in {shown(store.folder)}, which was made by MLPerf's preprocessing"
        return report

    cases = {case.name: case for case in find_cases(dataset_dir)}
    missing = []
    for name in sorted(set(cases if names is None else names)):
        if name not in cases:
            report.failed[name] = f"no such case in {shown(dataset_dir)}"
        elif store.is_current(cases[name]):
            report.skipped.append(name)
        elif blocked := store.blocked(name):
            report.failed[name] = blocked
        else:
            missing.append(cases[name])
    if missing:
        store.prepare()
        work = partial(_preprocess_case, store)
        for case, reason in workers.run(work, missing, processes, "Preprocessing", store.folder / LOG):
            if reason is None:
                report.done.append(case.name)
            elif isinstance(reason, workers.Crash):
                report.failed[case.name] = (
                    f"the process that prepared it crashed ({reason.reason}); see {shown(store.folder / LOG)}"
                )
            else:
                report.failed[case.name] = reason
    return Report(sorted(report.done), report.skipped, dict(sorted(report.failed.items())))


def _preprocess_case(store: Store, case: Case) -> str | None:
    """None, or what is wrong with the case. Errors of the store are raised: they concern every case."""
    from unet3d.brats.preprocessing.case import check_presence, prepare

    try:
        check_presence(case)
        sources = describe_sources(case)
        volume = prepare(case, store.padded_shape)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror} ({shown(error.filename)})"
    except MemoryError:
        return "it needs more memory than there is"
    store.save(case, volume, sources)
    return None
