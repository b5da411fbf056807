"""Train the sample weights: a narrow network of MLPerf's architecture on generated cases, packed like MLPerf's.

`python -m unet3d.brats.training samples/fold_1.zip --work-dir DIR --device cuda` takes four minutes on an H100, hours on
two cores of a CPU. With `--base-features 32 --max-features 320` the network has MLPerf's width, which shows what a
precision costs there. The training cases are made from a seed of their own, so every case of the sample data that users
get is held out. Cases, patches and initial weights come from the seed alone; the weights after training differ a little between
devices and versions of PyTorch, which round differently.
"""

import argparse
import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from unet3d import files
from unet3d.brats.weights import unpack
from unet3d.errors import BenchmarkError, UserError, tell
from unet3d.network import reference
from unet3d.network.plans import random_plans

BASE_FEATURES = 8
MAX_FEATURES = 40
TRAINING_SEED = 7001
TRAINING_CASES = 40
PATCH = (96, 96, 96)
PATCH_STEPS = 3000
# The statistics of InstanceNorm depend on how much of the volume is seen, and inference sees all of it at once.
VOLUME_STEPS = 300
PATCH_RATE = 3e-3
VOLUME_RATE = 5e-4


@dataclass(frozen=True)
class Example:
    """A preprocessed case: `volume` float16 [4, D, H, W], `labels` uint8 [D, H, W] with nnU-Net's labels 0 to 3."""

    volume: Tensor
    labels: Tensor


def deep_supervision_loss(poolings: int) -> nn.Module:
    """nnU-Net's loss and its weights for the heads: halved from one to the next, none for the coarsest.

    Source: nnU-Net 1.7.1, nnUNetTrainer (DC_and_CE_loss with batch Dice) and nnUNetTrainerV2.initialize.
    """
    dice_loss = reference.import_nnunet("nnunet.training.loss_functions.dice_loss")
    supervision = reference.import_nnunet("nnunet.training.loss_functions.deep_supervision")
    weights = np.array([1 / 2**i for i in range(poolings)])
    if poolings > 1:
        weights[-1] = 0
    loss = dice_loss.DC_and_CE_loss({"batch_dice": True, "smooth": 1e-5, "do_bg": False}, {})
    return supervision.MultipleOutputLoss2(loss, weights / weights.sum())


def _targets(labels: Tensor, heads: tuple[Tensor, ...]) -> list[Tensor]:
    """Labels [N, 1, D, H, W] for every head, at its resolution."""
    return [labels if head.shape[2:] == labels.shape[2:] else functional.interpolate(labels, head.shape[2:]) for head in heads]


def random_patch(example: Example, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A patch [4, *shape] and its labels [*shape]: around a tumour voxel in two of three, else in the brain.

    As often as not mirrored left to right, and each modality a little brighter or of stronger contrast.
    """
    inside = example.labels > 0 if rng.random() < 2 / 3 else example.volume[0] != 0
    places = inside.nonzero()
    centre = places[int(rng.integers(len(places)))].tolist() if len(places) else [s // 2 for s in inside.shape]
    shifts = rng.integers(-(np.array(shape) // 4), np.array(shape) // 4 + 1)
    window = []
    for middle, shift, size, extent in zip(centre, shifts, shape, inside.shape, strict=True):
        start = min(max(middle + int(shift) - size // 2, 0), extent - size)
        window.append(slice(start, start + size))
    return _augmented(example.volume[(slice(None), *window)], example.labels[tuple(window)], rng)


def _augmented(volume: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    brain = (volume != 0).float()
    scale, shift = (
        torch.tensor(rng.uniform(low, high, 4), dtype=torch.float32, device=volume.device).reshape(4, 1, 1, 1)
        for low, high in ((0.9, 1.1), (-0.1, 0.1))
    )
    volume = (volume.float() * scale + shift) * brain
    if rng.random() < 0.5:
        return volume.flip(-1), labels.flip(-1)
    return volume, labels


def _batches(
    examples: list[Example], patch: tuple[int, ...], steps: int, volume_steps: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(volume [1, 4, ...], labels [1, 1, ...], learning rate) of every step: patches first, then whole volumes."""
    for count, rate in ((steps, PATCH_RATE), (volume_steps, VOLUME_RATE)):
        order: list[int] = []
        for step in range(count):
            order = order or list(rng.permutation(len(examples)))
            example = examples[order.pop()]
            if rate == PATCH_RATE:
                volume, labels = random_patch(example, patch, rng)
            else:
                volume, labels = _augmented(example.volume, example.labels, rng)
            # nnU-Net's polynomial decay
            yield volume[None], labels[None, None].float(), rate * (1 - step / count) ** 0.9


def train(
    plans: dict,
    examples: list[Example],
    *,
    patch: tuple[int, ...] = PATCH,
    steps: int = PATCH_STEPS,
    volume_steps: int = VOLUME_STEPS,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[nn.Module, list[float]]:
    """A network trained from `seed`, on the CPU and in evaluation mode, and the loss of every step.

    Trains on `device` in bf16 autocast. Raises UserError when the loss is not finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    examples = [Example(example.volume.to(device), example.labels.to(device)) for example in examples]
    network = reference.build(plans).to(device=device, memory_format=torch.channels_last_3d).train()
    network.do_ds = True
    criterion = deep_supervision_loss(len(network.tu))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    losses = []
    batches = _batches(examples, patch, steps, volume_steps, rng)
    with tqdm(batches, total=steps + volume_steps, unit="step", mininterval=5) as bar:
        for volume, labels, rate in bar:
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                heads = network(volume.contiguous(memory_format=torch.channels_last_3d))
            heads = tuple(head.float() for head in heads)
            loss = criterion(heads, _targets(labels, heads))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise UserError(f"training: the loss is {losses[-1]} at step {len(losses)}; try another --seed.")
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", refresh=False)
    network.do_ds = False
    return network.to(device="cpu", memory_format=torch.contiguous_format).eval(), losses


def load_examples(dataset_dir: Path, store_dir: Path, names: list[str]) -> list[Example]:
    """Preprocess the cases `names` and load them with their labels, cropped and padded as the volumes were."""
    from unet3d.brats import preprocessing, segmentations
    from unet3d.brats.dataset import find_cases

    preprocessing.preprocess(dataset_dir, store_dir, names, processes=None)
    store = preprocessing.Store(store_dir)
    truths = {case.name: case.truth for case in find_cases(dataset_dir)}
    examples = []
    for name in names:
        volume = store.load(name)
        truth = segmentations.read(truths[name], volume.properties)
        labels = truth[tuple(slice(a, b) for a, b in volume.properties["crop_bbox"])]
        labels = preprocessing.pad(labels[None], volume.array.shape[1:])[0]
        if not np.array_equal(preprocessing.restore(labels, volume.properties), truth):
            raise UserError(f"{name}: its labels do not lie on its preprocessed volume; preprocess it again.")
        examples.append(Example(torch.from_numpy(volume.array).half(), torch.from_numpy(labels)))
    return examples


def pack(path: Path, plans: dict, state_dict: dict[str, Tensor], losses: list[float], fold: int = 1) -> None:
    """Write a model archive as nnU-Net 1.7.1 and MLPerf lay it out, atomically; the same input gives the same bytes.

    Source of what is in it: nnU-Net's NetworkTrainer.save_checkpoint (here without the optimizer's state, as with
    save_optimizer=False) and nnUNetTrainer.save_checkpoint.
    """
    curve = [np.mean(np.float32(part)) for part in np.array_split(losses, max(1, len(losses) // 20))]
    saved = {
        "epoch": len(curve),
        "state_dict": OrderedDict((key, value.cpu().contiguous().clone()) for key, value in state_dict.items()),
        "optimizer_state_dict": None,
        "lr_scheduler_state_dict": None,
        "plot_stuff": (curve, [], [], []),
        "best_stuff": (None, curve[-1], None),
    }
    info = OrderedDict(
        [
            ("init", ("plans.pkl", fold, None, None, True, 0, True, True, False)),
            ("name", "nnUNetTrainerV2"),
            ("class", "<class 'nnunet.training.network_training.nnUNetTrainerV2.nnUNetTrainerV2'>"),
            ("plans", plans),
        ]
    )
    checkpoint = io.BytesIO()
    torch.save(saved, checkpoint)
    contents = {
        "plans.pkl": pickle.dumps(plans, 4),
        f"fold_{fold}/{unpack.CHECKPOINT}": checkpoint.getvalue(),
        f"fold_{fold}/{unpack.CHECKPOINT}.pkl": pickle.dumps(info, 4),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            member = zipfile.ZipInfo(f"{unpack.MODEL_FOLDER}/{name}", (2020, 1, 1, 0, 0, 0))
            member.external_attr = 0o100644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)


def main(arguments: list[str] | None = None) -> int:
    from unet3d.brats import sample_data

    parser = argparse.ArgumentParser(prog="python -m unet3d.brats.training", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="the archive to write, e.g. samples/fold_1.zip")
    parser.add_argument("--work-dir", type=Path, required=True, help="for the training cases, some 10 GB")
    parser.add_argument("--cases", type=int, default=TRAINING_CASES, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=PATCH_STEPS, help="on patches, default: %(default)s")
    parser.add_argument("--volume-steps", type=int, default=VOLUME_STEPS, help="on whole volumes, default: %(default)s")
    parser.add_argument("--base-features", type=int, default=BASE_FEATURES, help="channels at first, default: %(default)s")
    parser.add_argument("--max-features", type=int, default=MAX_FEATURES, help="channels at most, default: %(default)s")
    parser.add_argument("--seed", type=int, default=TRAINING_SEED, help="of cases and training, default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or xpu, default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        if options.seed == sample_data.DEFAULT_SEED:
            raise UserError(f"--seed is {options.seed}, the seed of the cases that are held out; choose another.")
        torch.set_num_threads(options.threads)
        data = options.work_dir / "data"
        names = sample_data.make(data, options.cases, options.seed)
        examples = load_examples(data, options.work_dir / "preprocessed", names)
        plans = random_plans(options.base_features, options.max_features)
        network, losses = train(
            plans, examples, steps=options.steps, volume_steps=options.volume_steps, seed=options.seed, device=options.device
        )
        pack(options.output, plans, network.state_dict(), losses)
    except BenchmarkError as error:
        return tell(error)
    print(f"{options.output}: loss {losses[0]:.3f} at the first step, {np.mean(losses[-20:]):.3f} over the last 20")
    return 0


if __name__ == "__main__":
    sys.exit(main())
