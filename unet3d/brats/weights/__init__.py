"""Where the network's weights come from: MLPerf's archive, the sample in this repository, or a random generator."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from unet3d import places
from unet3d.brats.weights import checkpoint, safe_pickle, unpack
from unet3d.errors import UserError, shown
from unet3d.network.plans import architecture, random_plans

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OFFICIAL_URL", "Weights", "load", "random_plans", "random_weights"]

OFFICIAL_URL = "https://zenodo.org/record/3904106/files/fold_1.zip"
RANDOM_SEED = 3904106
# SHA-256 of the checkpoint in MLPerf's archive, fold_1 of Zenodo record 3904106. None: nobody who could reach Zenodo has
# written it down yet (results.json has it as weights.sha256), and what was fetched from there is called unverified.
MLPERF_SHA256: str | None = None
# The same of the sample in this repository.
SAMPLE_SHA256 = "45b2d69a275b99cc82b35da4f416244dd66f4744b02ca251d44bfb76de0328c5"


@dataclass(frozen=True)
class Weights:
    """Weights and what is known of them.

    kind: 'mlperf' (the checkpoint of Zenodo record 3904106), 'sample' (the narrow network of this repository), 'random',
    'mlperf-unverified' (of MLPerf's architecture, and fetched from that Zenodo record as the file beside them says) or
    'custom' (anything else). The first two are known by their SHA-256. path: where they were read, None if random.
    sha256: of the checkpoint file, None if random. plans: nnU-Net's. state_dict: fp32 tensors on the CPU.
    """

    kind: str
    path: Path | None
    sha256: str | None
    plans: dict = field(repr=False)
    state_dict: "dict[str, Tensor]" = field(repr=False)


def random_weights(base_features: int = 32, max_features: int = 320, poolings: int = 5, seed: int = RANDOM_SEED) -> Weights:
    """nnU-Net's initialisation from a fixed seed; the generator of the caller is left as it was."""
    import torch

    from unet3d.network import reference

    plans = random_plans(base_features, max_features, poolings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state_dict = reference.build(plans).state_dict()
    return Weights("random", None, None, plans, dict(state_dict))


def load(source: str | Path, fold: int = 1) -> Weights:
    """Weights from 'random', 'sample', a model archive such as fold_1.zip, or the folder it was unpacked to.

    The folder may be any level of the archive's tree down to the one that holds `plans.pkl`. As in nnU-Net, the plans are
    those saved with the checkpoint; `plans.pkl` must describe the same network.
    Raises UserError when the source does not exist, is unsafe, damaged, changed since it was fetched, lacks the fold,
    or when plans and checkpoint do not belong together.
    """
    name = str(source).strip()
    if name.lower() == "random":
        return random_weights()
    path = places.SAMPLE_WEIGHTS if name.lower() == "sample" else _path(name)
    files, root, names = unpack.read_model(path, fold)
    plans = _plans(files, path, names)
    where = f"{path}: {names['checkpoint']}"
    parameters = checkpoint.read(files["checkpoint"], where)

    from unet3d.network import reference

    # Before a tensor is cast: what is stored as one number may be of any size, and the network says of which.
    reference.check(reference.build(plans, device="meta"), parameters, shown(where))
    state_dict = checkpoint.tensors(parameters, where)
    record = _check_record(path, root, names, files)
    digest = sha256(files["checkpoint"]).hexdigest()
    return Weights(_kind(digest, plans, record), path, digest, plans, state_dict)


def _path(name: str) -> Path:
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError):  # folders that may not be entered, unknown users, names that none can have
        pass
    raise UserError(
        f"weights {shown(repr(name))}: no such file or folder; give 'random', 'sample', a fold_1.zip or its unpacked folder."
    )


def _plans(files: dict[str, bytes], path: Path, names: dict[str, str]) -> dict:
    by_file = {}
    if "info" in files:
        info = safe_pickle.loads(files["info"], f"{path}: {names['info']}")
        if not isinstance(info, dict) or not isinstance(info.get("plans"), dict):
            raise UserError(f"{shown(path)}: {shown(names['info'])} holds no plans; get a fresh copy of the model.")
        by_file["info"] = info["plans"]
    if "plans" in files:
        by_file["plans"] = safe_pickle.loads(files["plans"], f"{path}: {names['plans']}")
    if not by_file:
        raise UserError(
            f"{shown(path)}: neither plans.pkl nor {shown(names['checkpoint'])}.pkl is there; get a fresh copy of the model."
        )
    shapes = {key: architecture(plans, shown(f"{path}: {names[key]}")) for key, plans in by_file.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"{shown(path)}: {shown(names['plans'])} and {shown(names['info'])} describe different networks; "
            "both must come from the same training."
        )
    return next(iter(by_file.values()))


def _kind(digest: str, plans: dict, record: dict) -> str:
    """Whose weights they are. A record beside them proves nothing, as anybody can write one, and its name says so."""
    if digest == SAMPLE_SHA256:
        return "sample"
    if architecture(plans) != architecture(random_plans()):
        return "custom"
    if MLPERF_SHA256 is not None:
        return "mlperf" if digest == MLPERF_SHA256 else "custom"
    return "mlperf-unverified" if record.get("url") == OFFICIAL_URL else "custom"


def _check_record(path: Path, root: Path, names: dict[str, str], files: dict[str, bytes]) -> dict:
    """What was recorded when the files were fetched or unpacked; empty where nothing was.

    Raises UserError for files that have changed since.
    """
    if path.is_dir():
        record, base = None, root.resolve()
        for folder in (base, *base.parents[:6]):
            if record := unpack.read_json(folder / unpack.ORIGIN):
                break
        if not record or not isinstance(record.get("files"), dict):
            return {}
        for key, name in names.items():
            relative = (base / name).relative_to(folder).as_posix()
            if record["files"].get(relative) != sha256(files[key]).hexdigest():
                raise UserError(
                    f"{shown(base / name)}: changed since it was unpacked; unpack the archive again, or delete "
                    f"{shown(folder / unpack.ORIGIN)} to use these files as custom weights."
                )
        return record
    record = unpack.read_json(unpack.record_path(path)) or {}
    if "sha256" not in record:
        return {}
    if record["sha256"] != unpack.file_sha256(path):
        raise UserError(
            f"{shown(path)}: differs from the checksum recorded when it was fetched; delete it and "
            f"{shown(unpack.record_path(path).name)} and fetch it again."
        )
    return record
