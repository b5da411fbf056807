"""`python -m tests.robustness.hostile [WORD]`: tries each input in a process of its own, counts those that held.

Held means: refused in one printable line, or read as finite numbers under the right name; no crash, no hang, no noise,
no error of another kind. WORD: only inputs with it in their name.
"""

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from tests.robustness.hostile import cases, stores, weights
from unet3d.brats import preprocessing, segmentations
from unet3d.brats import weights as reader
from unet3d.brats.dataset import find_cases
from unet3d.brats.preprocessing import nnunet
from unet3d.brats.preprocessing.run import _preprocess_case
from unet3d.errors import UserError

LIMIT_S = 60


def a_case(make, folder):
    make(folder / "data")
    (case,) = find_cases(folder / "data")
    store = preprocessing.Store(folder / "store", cases.SHAPE)
    store.prepare()
    if reason := _preprocess_case(store, case):
        raise UserError(reason)
    read(store, case.name)
    properties = store.load(case.name).properties
    if os.path.lexists(case.truth):
        try:
            segmentations.read(case.truth, properties)
        except TypeError:
            segmentations.read(case.truth)


def a_store(make, folder):
    (folder / "store").mkdir()
    make(folder / "store" / "HGG__A.npz")
    read(preprocessing.Store(folder / "store", cases.SHAPE), "HGG__A")


def an_mlperf_store(make, folder):
    make(folder / "store")
    store = preprocessing.Store(folder / "store", cases.SHAPE)
    for name in store.names():
        read(store, name)


def read(store, name):
    volume = store.load(name)
    values = volume.array[volume.array != 0]
    if not np.isfinite(values).all() or not values.size or np.abs(values).max() > 1e4:
        raise AssertionError("a volume that is not finite, empty or no z-score was read")
    if any(not image.any() for image in volume.array):
        raise AssertionError("a modality without contrast was read")
    spacing = np.array(volume.properties["itk_spacing"])
    if not np.isfinite(spacing).all() or spacing.min() < 0.01 or spacing.max() > 50:
        raise AssertionError("an absurd spacing was read")
    restored = preprocessing.restore(np.zeros(cases.SHAPE, np.uint8), volume.properties)
    segmentations.save(store.folder / ".segmentation" / "x.nii.gz", restored, volume.properties)


def some_weights(make, folder):
    loaded = reader.load(make(folder))
    if loaded.kind != "custom":
        raise AssertionError(f"they were called {loaded.kind}")
    good = weights.made().state_dict
    if not all((value == good[key]).all() for key, value in loaded.state_dict.items()):
        raise AssertionError("other numbers than nnU-Net wrote were read")


GROUPS = {
    "case": (a_case, cases.case_inputs()),
    "store": (a_store, stores.STORES),
    "mlperf": (an_mlperf_store, stores.MLPERF),
    "weights": (some_weights, weights.WEIGHTS),
}


def verdict(work, make, quiet=True):
    """None where it held, else how not, in a line."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    told, noise = folder / "told", folder / "noise"
    sys.stdout.flush()
    if not (child := os.fork()):
        code = 1
        try:
            # The parent's threads did not survive the fork, and work given to them would never end.
            torch.set_num_threads(1)
            descriptor = os.open(noise, os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.setsid()
            (folder / "in").mkdir()
            try:
                work(make, folder / "in")
            except UserError as error:
                text = str(error)
                good = text.isprintable() and 10 < len(text) < 1000
                told.write_bytes(b"" if good else f"message {text[:300]!r}".encode("utf-8", "backslashreplace"))
            code = 0
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the verdict
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {str(error)[:120]!r} at {Path(where.filename).name}:{where.lineno}"
            told.write_bytes(message.encode("utf-8", "backslashreplace"))
        finally:
            os._exit(code)
    deadline = time.monotonic() + LIMIT_S
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.005)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        problem = f"hangs for {LIMIT_S} s"
    elif os.WIFSIGNALED(ended[1]):
        problem = f"crashes: {signal.Signals(os.WTERMSIG(ended[1])).name}"
    else:
        problem = told.read_text() if told.exists() else None
        if not problem and quiet and noise.exists() and noise.stat().st_size:
            problem = f"noise: {noise.read_text(errors='replace')[:120]!r}"
    shutil.rmtree(folder, ignore_errors=True)
    return problem or None


def main(words):
    word = words[0] if words else ""
    tried, held = 0, 0
    # PyTorch warns of quantised and nested tensors where an input is made, not where it is read.
    warnings.filterwarnings("ignore", module="torch|tests.robustness")
    weights.made()
    # Loaded once, and not used.
    with nnunet.quiet():
        importlib.import_module("nnunet.preprocessing.cropping")
        importlib.import_module("nnunet.preprocessing.preprocessing")
    for group, (work, inputs) in GROUPS.items():
        for name, make in inputs.items():
            if word not in f"{group} {name}":
                continue
            problem = verdict(work, make)
            tried, held = tried + 1, held + (problem is None)
            if problem:
                print(f"{group} {name!a}: {problem}", flush=True)
    print(f"{held} of {tried} held")


if __name__ == "__main__":
    main(sys.argv[1:])
