"""Checkpoints as nnU-Net 1.7.1 writes them (`*.model`, by torch.save), read without running code from them."""

import io
import pickle
import re
from typing import TYPE_CHECKING

import numpy as np

from unet3d.brats.weights.safe_pickle import NUMBERS, numpy_globals
from unet3d.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def _safe_globals() -> list:
    """nnU-Net keeps its training curves as numpy scalars; their dtypes are rebuilt through a class of each dtype."""
    dtypes = [type(np.dtype(kind)) for kind in NUMBERS]
    return [(value, name) for name, value in numpy_globals().items()] + dtypes


def _reason(error: Exception) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        return f"refused, it asks for {asked[1]!r}; only tensors, plain data and numpy arrays are allowed"
    first = str(error).strip().splitlines()
    return f"not a readable PyTorch checkpoint ({first[0] if first else type(error).__name__}); get a fresh copy"


def read(data: bytes, name: str) -> "dict[str, Tensor]":
    """The parameters in a checkpoint's bytes, on the CPU, in fp32.

    A `module.` in front of every name, left by nn.DataParallel, is taken off as nnU-Net does.
    Raises UserError when the file asks for a global that is not allowed (the message has its name), is damaged, holds no
    'state_dict' or values that are not finite.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged files end in any error, depending on where they are cut
        raise UserError(f"{name}: {_reason(error)}.") from None
    state_dict = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise UserError(f"{name}: holds no 'state_dict' of tensors; a checkpoint of nnU-Net's trainer is needed.")
    parameters = {}
    for key, value in state_dict.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name}: {key} holds NaN or infinite values; get a fresh copy of the checkpoint.")
        parameters[key.removeprefix("module.")] = value.float() if value.is_floating_point() else value
    return parameters
