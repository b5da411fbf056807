"""The operators of one inference by PyTorch: layer, time, FLOP and bytes of each; on a GPU a row for each kernel.

On a CPU the timed object is watched operator by operator. On a GPU that would slow it down, and a graph shows no operators.
There the network is called twice under PyTorch's profiler: its kernels launched one by one, each operator marked, and as it
is timed. Both have the same kernels in the same order, so that the first call tells the layers of the second.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unet3d.engines.base import Operator, Profiled
from unet3d.engines.pytorch import kernels, profiler
from unet3d.engines.pytorch.kernels import Kernel
from unet3d.engines.pytorch.layers import INPUT, Call, Watch

if TYPE_CHECKING:
    from unet3d.network.flops import Executed

OUTPUT = "output"
GAPS = "gaps between kernels"
# The median of so many calls, and of as many as half a second has room for, is the latency that a GPU's rows add up to: the
# profiler makes a call longer, and the host's launches differ from call to call where they are what a call waits for.
CALLS, CALLS_S = 5, 0.5

# Makes a watch with a mark for each operator.
Watching = Callable[[Callable[[int], Any] | None], Watch]


def on_host(watching: Watching, infer: Callable[[], object], is_compiled: bool) -> Profiled:
    """The operators of one call of `infer`, in which each is finished when it returns."""
    # Of the first watched call a second or more is PyTorch's: it imports and prepares what watching takes.
    for _ in range(2):
        with watching(None) as watch:
            whole = _milliseconds(infer)
    rows = rows_of_calls(watch.calls, watch.flop_of)
    notes: tuple[str, ...] = ()
    if is_compiled and not watch.sees_compiled:
        notes = ("this PyTorch runs a compiled network operator by operator while it is watched: these are not its own times",)
    return Profiled(rows, whole, notes=notes)


def on_device(
    kind: str,
    watching: Watching,
    launch: Callable[[], object],
    infer: Callable[[], object],
    is_out_of_memory: Callable[[BaseException], bool],
) -> Profiled:
    """The kernels of one call of `infer`. launch: the same with each kernel launched by itself.

    The rows' whole is the median latency of calls that are not profiled.
    """
    import torch

    whole = _usual_milliseconds(infer)
    calls, flop_of, named, notes = [], {}, [], []
    try:
        launch()  # what a library tries out at a first call is no kernel of the network's
        watch = watching(lambda number: torch.profiler.record_function(f"{kernels.MARK}{number}"))
        with profiler.recording(kind) as profile, watch:
            launch()
        calls, flop_of = watch.calls, watch.flop_of
        named = [
            replace(kernel, call=None if kernel.call is None else watch.places.get(kernel.call))
            for kernel in kernels.launched(kernels.events(profile))
        ]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        notes.append("the memory is too small for a second network beside the graph's: the kernels' layers are not known")
    with profiler.recording(kind) as profile:
        infer()
    ran = kernels.launched(kernels.events(profile))
    if not ran:
        return Profiled([], whole, GAPS, ("PyTorch's profiler saw no kernels: its access to the GPU's counters may be barred",))
    if named:
        ran, wrong = kernels.matched(ran, named)
        notes += [f"{wrong}: their layers are not known"] if wrong else []
    rows = rows_of_kernels(ran, calls, flop_of)
    nameless = sum(row.layer is None for row in rows)
    if nameless and not notes:
        notes.append(f"of {nameless} kernels the layer is not known")
    if (busy := sum(row.ms for row in rows)) > whole:
        notes.append(f"kernels take {busy:.2f} ms, longer than the {whole:.2f} ms of a call: some ran beside each other")
    return Profiled(rows, whole, GAPS, tuple(notes))


def _usual_milliseconds(call: Callable[[], object]) -> float:
    call()  # the host comes from other work
    taken: list[float] = []
    while len(taken) < CALLS or sum(taken) < 1e3 * CALLS_S:
        taken.append(_milliseconds(call))
    return median(taken)


def _milliseconds(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)


def rows_of_calls(calls: Sequence[Call], flop_of: dict[str, int]) -> list[Operator]:
    """A row for each operator. Operators that compute one convolution together share its FLOP by their time."""
    times: defaultdict[str, float] = defaultdict(float)
    for call in calls:
        for layer in call.products:
            times[layer] += call.ms
    rows = []
    for call in calls:
        flop = sum(round(_part(call.ms, times[layer]) * flop_of[layer]) for layer in call.products)
        rows.append(Operator(call.name, call.shapes, call.ms, call.flop + flop, call.bytes, layer=call.layer))
    return rows


def rows_of_kernels(ran: Sequence[Kernel], calls: Sequence[Call], flop_of: dict[str, int]) -> list[Operator]:
    """A row for each kernel. Those of one operator share its FLOP and bytes by their time."""
    times: defaultdict[int, float] = defaultdict(float)
    for kernel in ran:
        if kernel.call is not None:
            times[kernel.call] += kernel.ms
    timed = [Call(**{**vars(call), "ms": times[number]}) for number, call in enumerate(calls)]
    whole = rows_of_calls(timed, flop_of)
    inside = [place for place, kernel in enumerate(ran) if kernel.call is not None]
    rows = []
    for place, kernel in enumerate(ran):
        if kernel.call is not None:
            of = whole[kernel.call]
            part = _part(kernel.ms, of.ms)
            flop, moved = round(part * of.flop), round(part * of.bytes)
            rows.append(Operator(of.name, of.shapes, kernel.ms, flop, moved, layer=of.layer, kernel=kernel.name))
            continue
        # What comes before the network's kernels brings its input, what comes after them takes its output away.
        outer = None
        if inside and not inside[0] < place < inside[-1]:
            outer = INPUT if place < inside[0] else OUTPUT
        rows.append(Operator(kernel.name, [], kernel.ms, 0, 0, layer=outer, kernel=kernel.name))
    return rows


def with_products(rows: Sequence[Operator], executed: Sequence[Executed]) -> list[Operator]:
    """Rows with the products that their layers really compute, where a form tells them. Rows of one layer share them by
    their FLOP."""
    layers = {layer.name: layer for layer in executed}
    direct: defaultdict[str | None, int] = defaultdict(int)
    for row in rows:
        direct[row.layer] += row.flop
    told = []
    for row in rows:
        layer = layers.get(row.layer or "")
        if layer is not None and row.flop:
            flop = round(layer.flop * row.flop / direct[row.layer])
            told.append(replace(row, products=layer.products, executed_flop=flop))
        else:
            told.append(row)
    return told


def _part(ms: float, whole: float) -> float:
    return ms / whole if whole else 0.0
