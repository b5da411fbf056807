"""Slots whose memory is used call after call, and on a device the order of their calls.

A slot has the staged volumes on the host, pinned for a device, and there their copy and the labels. Three queues of the
device work side by side: one brings volumes, one computes, one takes labels to the host. Events keep their order, so that
no thread of the host waits between two calls::

    bring    | volumes 1 | volumes 2 |           | volumes 3 |
    compute              | network 1 , labels 1  | network 2 , labels 2 |
    take                                         | labels 1  |
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from unet3d.engines import labels, layout
from unet3d.engines.base import Finished

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from unet3d.devices.base import Device, DeviceEvent

# One call computes, the next one waits behind it, one is staged, and one may be late.
DEPTH = 4


@dataclass
class Moments:
    """Of one call, by the device's clock. `sent` and `arrived`: of its volumes, where they come from the host."""

    begun: DeviceEvent
    computed: DeviceEvent
    labelled: DeviceEvent
    done: DeviceEvent
    sent: DeviceEvent | None = None
    arrived: DeviceEvent | None = None


class DeviceCall(Finished):
    """See `unet3d.engines.base.Finished`."""

    def __init__(self, moments: Moments, on_host: NDArray[np.uint8]):
        self.labels, self._moments = on_host, moments
        network = moments.begun.elapsed_time(moments.computed)
        transfer = moments.sent.elapsed_time(moments.arrived) if moments.sent and moments.arrived else 0.0
        self.latency = (transfer + network) / 1e3
        self.post = moments.computed.elapsed_time(moments.done) / 1e3

    def seconds_since(self, earlier: Self) -> float:
        return earlier._moments.done.elapsed_time(self._moments.done) / 1e3


@dataclass
class Slot:
    """Memory of a call; None until it is first needed."""

    staged: torch.Tensor | None = None
    on_device: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    labels_on_host: torch.Tensor | None = None
    moments: Moments | None = field(default=None, repr=False)


class Ring:
    """Slots by number. A slot is used by one thread at a time; different ones by several."""

    def __init__(self, device: Device, streams: int = 1, threads: int = 1, channels_last: bool = True):
        """threads: of the host, for a stream. channels_last: the network's layout, channels innermost; otherwise outermost."""
        self._device, self._channels_last = device, channels_last
        # Where a device works, volumes change their layout there: see `layout`.
        self._innermost_on_host = channels_last and device.is_host
        self.overlaps = not device.is_host and device.times_events
        # Streams are calls in flight already.
        self.depth = DEPTH if self.overlaps and streams == 1 else 1
        # All but one slot are staged at a time. Teams of threads that fill the cores one by one wait for each other.
        self._threads, self._share = threads, max(1, threads // max(1, self.depth - 1))
        self._bring, self._take = (device.new_stream(), device.new_stream()) if self.overlaps else (None, None)
        self._slots: dict[int, Slot] = {}
        self._lock = threading.Lock()

    def _slot(self, number: int) -> Slot:
        with self._lock:
            return self._slots.setdefault(number, Slot())

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype, number: int | None = None) -> torch.Tensor:
        """Host memory for volumes of this shape and type; of a slot or of its own."""
        import torch

        slot = Slot() if number is None else self._slot(number)
        if slot.staged is None or (tuple(slot.staged.shape), slot.staged.dtype) != (shape, dtype):
            order = torch.channels_last_3d if self._innermost_on_host else torch.contiguous_format
            slot.staged = self._device.pin(torch.empty(shape, dtype=dtype, memory_format=order))
        return slot.staged

    def stage(self, volumes: NDArray[np.float32], dtype: torch.dtype, number: int | None, on_device: bool) -> torch.Tensor:
        """Volumes in this data type: in host memory, pinned for a device, or, on_device, there and in the network's layout.

        Less has to be sent to a device than of float32.
        """
        import torch

        threads = self._threads if number is None else self._share
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        staged = self.memory(tuple(volumes.shape), dtype, number)
        layout.fill(staged, torch.from_numpy(volumes))
        if not on_device:
            return staged
        if number is not None and self.overlaps:
            return self.upload(number, staged)
        there = self._device.upload(staged)
        if self._channels_last:
            there = layout.innermost(there)
        self._device.synchronize()
        return there

    def upload(self, number: int, staged: torch.Tensor) -> torch.Tensor:
        """Staged volumes in the slot's memory on the device, in the network's layout; nothing else is waited for."""
        assert self._bring is not None, "only where calls overlap"
        with self._device.on_stream(self._bring):
            there = self._place(self._slot(number), staged, self._channels_last)
            layout.fill(there, staged)
            arrived = self._device.new_event()
            arrived.record()
        arrived.synchronize()
        return there

    def start(
        self, number: int, staged: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor], on_device: bool = False
    ) -> None:
        """Begin a slot's call behind those that were begun before, on the calling thread's current queue.

        run: from volumes on the device, in the layout of those staged, to logits. on_device: whether these are there already.
        """
        assert self._bring is not None and self._take is not None, "only where calls overlap"
        slot, event = self._slot(number), self._device.new_event
        moments = Moments(begun=event(), computed=event(), labelled=event(), done=event())
        there = staged
        if not on_device:
            moments.sent, moments.arrived = event(), event()
            with self._device.on_stream(self._bring):
                there = self._place(slot, staged, channels_last=False)
                moments.sent.record()
                there.copy_(staged, non_blocking=True)
                moments.arrived.record()
            moments.arrived.wait()
        moments.begun.record()
        logits = run(there)
        moments.computed.record()
        # Held by the slot: the other queue reads it after this call has returned.
        slot.labels = labels.most_likely(logits)
        moments.labelled.record()
        if slot.labels_on_host is None or slot.labels_on_host.shape != slot.labels.shape:
            slot.labels_on_host = self._device.pin(slot.labels.new_empty(slot.labels.shape, device="cpu"))
        with self._device.on_stream(self._take):
            moments.labelled.wait()
            slot.labels_on_host.copy_(slot.labels, non_blocking=True)
            moments.done.record()
        slot.moments = moments

    def finish(self, number: int) -> DeviceCall:
        """Wait for the slot's call."""
        slot = self._slot(number)
        assert slot.moments is not None and slot.labels_on_host is not None, "the slot has no call"
        slot.moments.done.synchronize()
        return DeviceCall(slot.moments, slot.labels_on_host.numpy())

    def fill(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        on_device: bool,
        start: Callable[[torch.Tensor, int], None],
    ) -> None:
        """Take the memory of every slot by a call each, which takes longer than a call: pages must be pinned."""
        for number in range(DEPTH):
            place = self.memory(shape, dtype, number).zero_()
            start(self.upload(number, place) if on_device else place, number)
            self.finish(number)

    def clear(self) -> None:
        """Give the memory back."""
        self._slots.clear()

    def _place(self, slot: Slot, staged: torch.Tensor, channels_last: bool) -> torch.Tensor:
        """The slot's volumes on the device. Called on the queue that brings them, whose memory no other one uses."""
        import torch

        if slot.on_device is None or slot.on_device.shape != staged.shape:
            order = torch.channels_last_3d if channels_last else torch.contiguous_format
            slot.on_device = torch.empty_like(staged, device=self._device.torch_device, memory_format=order)
        return slot.on_device
