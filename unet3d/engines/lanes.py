"""One inference call in flight: its stream on the device, and the graphs recorded for it.

With several lanes the transfer of one call's volumes overlaps the network of another. A graph replays the kernels of a
whole forward pass with one launch, from an input and to an output at fixed places in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unet3d.engines import layout

if TYPE_CHECKING:
    import torch

    from unet3d.devices.base import Device, Graph


@dataclass
class Captured:
    """A recorded forward pass: `replay` fills its input, from any layout, on the current stream and returns its output."""

    graph: Graph
    input: torch.Tensor
    output: torch.Tensor

    def replay(self, staged: torch.Tensor) -> torch.Tensor:
        layout.fill(self.input, staged)
        self.graph.replay()
        return self.output


class Lane:
    """A place for one call at a time."""

    def __init__(self, device: Device, own_stream: bool):
        """own_stream: run beside other lanes; otherwise on the device's default stream. A CPU has no streams."""
        self._device = device
        self.stream = device.new_stream() if own_stream else None
        self.graphs: dict[tuple[int, ...], Captured] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Work started inside is this lane's, and finished at the end."""
        if self.stream is None:
            yield
            self._device.synchronize()
            return
        with self._device.on_stream(self.stream):
            yield
        self.stream.synchronize()

    def capture(self, network: Callable[[torch.Tensor], torch.Tensor], staged: torch.Tensor) -> None:
        """Record the network for volumes of this shape. The network must have run with it before."""
        place = layout.innermost(self._device.upload(staged))
        if place is staged:
            place = staged.clone()
        self._device.synchronize()
        graph, output = self._device.capture(lambda: network(place))
        self.graphs[tuple(staged.shape)] = Captured(graph, place, output)
