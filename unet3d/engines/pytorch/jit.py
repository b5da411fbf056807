"""How PyTorch compiles the network: not at all, by a trace or by torch.compile, and what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from unet3d.engines import layout
from unet3d.errors import UserError

if TYPE_CHECKING:
    import torch

    # Volumes to logits.
    Runnable = Callable[[torch.Tensor], torch.Tensor]


def make_runnable(
    network: torch.nn.Module, jit: str, backend: str, example: torch.Tensor, casting: AbstractContextManager[object]
) -> Runnable:
    """The network as `jit` has it; a trace serves every shape.

    backend: of torch.compile. example: volumes that a trace reads, while `casting` holds.

    Raises:
        UserError: where PyTorch is told not to trace.
    """
    import torch

    if jit == "none":
        return network
    if jit == "compile":
        _counters().clear()
        # Static shapes: the small volume of the comparison with fp32 and the measured one get a graph each.
        compiled: Runnable = torch.compile(network, dynamic=False, backend=backend)
        return compiled
    with torch.inference_mode(), casting, warnings.catch_warnings():
        # The deprecation of torch.jit is told once in docs/settings.md, not in every run's output.
        warnings.simplefilter("ignore")
        there = layout.innermost(example.to(next(network.parameters()).device))
        traced = torch.jit.trace(network, there, check_trace=False)
        if not isinstance(traced, torch.jit.ScriptModule):
            raise UserError("JIT=trace: torch.jit is switched off, PYTORCH_JIT=0 does that; unset it, or use JIT=none")
        frozen: Runnable = torch.jit.freeze(traced.eval())
        return frozen


def ran_as(runnable: Runnable | None, network: torch.nn.Module) -> str:
    """What `runnable` is, by itself and not by what was asked for: none, trace, compile, with its graph breaks."""
    import torch

    if isinstance(runnable, torch.jit.ScriptModule):
        return "trace"
    if runnable is network:
        return "none"
    graphs, breaks = _counters()["stats"]["unique_graphs"], sum(_counters()["graph_break"].values())
    if not graphs:
        return "none"
    return "compile" if not breaks else f"compile with {breaks} graph breaks"


def _counters() -> Any:
    """What torch.compile has counted since it was last cleared."""
    import torch

    return torch._dynamo.utils.counters
