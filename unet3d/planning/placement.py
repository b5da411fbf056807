"""Which tile, device, NUMA node or group of cores each rank of this machine gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from unet3d.config.values import Asked, Settings
from unet3d.devices import binding, topology
from unet3d.devices.base import Device
from unet3d.devices.registry import class_of_platform
from unet3d.results.facts import Bound

Value = TypeVar("Value")


class Fill(Protocol):
    """Takes what was asked for, else a value of the machine's with its reason; see `unet3d.planning.resolve`."""

    def __call__(self, name: str, asked: Value | None, value: Value, reason: str) -> Value: ...


@dataclass(frozen=True)
class Placement:
    """Where a rank runs. variables: environment variables that show it its device alone."""

    name: str  # as users know it: "GPU 1", "tile 0.1", "cores 4-7 of NUMA node 1"
    threads: int
    cpus: tuple[int, ...] = ()  # empty: not pinned
    memory_nodes: tuple[int, ...] = ()  # empty: not bound
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Processes on this machine: by device or tile, by group of a CPU's cores."""

    devices: int
    instances: int


def ranks_here(settings: Settings) -> int:
    """Ranks on this machine."""
    return settings.instances * settings.devices


def needs_ranks(settings: Settings) -> bool:
    """Whether the run needs more than one rank, and so torchrun."""
    return ranks_here(settings) > 1 or settings.nnodes > 1


def counts(asked: Asked, platform: str, threads: int, fill: Fill) -> tuple[Counts, list[str]]:
    """DEVICES and INSTANCES, and what is wrong with them, a line each.

    Raises:
        UserError: as the device's `visible_names`.
    """
    decided, problems = (_on_cpu if class_of_platform(platform).is_host else _on_devices)(asked, platform, threads, fill)
    ranks = decided.devices * decided.instances * asked.nnodes
    if not problems and ranks > 1 and asked.scenario != "Default":
        problems.append(
            f"SCENARIO={asked.scenario} on {ranks} ranks is not possible; "
            "LoadGen paces one process, use SCENARIO=Default or one rank"
        )
    if not problems and ranks > 1 and asked.tune and not class_of_platform(platform).is_host:
        problems.append(
            f"TUNE=yes on {ranks} ranks is not possible, each would disturb the others' times; use TUNE=yes in a run on one "
            "device first, later ones on such cards take its choice"
        )
    return decided, problems


def _on_cpu(asked: Asked, platform: str, threads: int, fill: Fill) -> tuple[Counts, list[str]]:
    problems = []
    if asked.devices not in (None, 1):
        problems.append(f"DEVICES={asked.devices} with PLATFORM=CPU is not possible; use INSTANCES for groups of cores")
    devices = fill("devices", None, 1, "PLATFORM=CPU")
    cores = topology.cores()
    nodes = len(topology.by_node(cores)) if asked.multi_tile else 1
    reason = "MULTI_TILE=True: NUMA nodes with cores for this process" if asked.multi_tile else "one process"
    instances = fill("instances", asked.instances, nodes, reason)
    most = min(threads, len(cores))
    if instances > most:
        problems.append(
            f"INSTANCES={instances} is more than the {most} CPU threads and cores; lower INSTANCES or raise THREADS"
        )
    elif instances > 1 and asked.streams > (each := threads_of_each(topology.split(cores, instances), threads)):
        problems.append(
            f"STREAMS={asked.streams} is more than the {each} CPU threads of an instance; lower STREAMS or INSTANCES"
        )
    return Counts(devices, instances), problems


def _on_devices(asked: Asked, platform: str, threads: int, fill: Fill) -> tuple[Counts, list[str]]:
    problems = []
    if asked.instances not in (None, 1):
        problems.append(f"INSTANCES={asked.instances} with PLATFORM={platform} is not possible; use DEVICES")
    instances = fill("instances", None, 1, f"PLATFORM={platform}")
    if asked.multi_tile:
        problems += _refuse_tiles(platform)
    if asked.devices is None and not asked.multi_tile:
        return Counts(fill("devices", None, 1, "one device"), instances), problems
    cls = class_of_platform(platform)
    visible = len(cls.visible_names())
    if asked.devices in (None, "all"):
        return Counts(fill("devices", None, visible, "every tile or device that is visible"), instances), problems
    devices = int(asked.devices)
    if devices > visible:
        problems.append(
            f"DEVICES={devices} is more than the {visible} that PyTorch sees; lower DEVICES, or show "
            f"it more ({cls.visibility_variable})"
        )
    return Counts(devices, instances), problems


def _refuse_tiles(platform: str) -> list[str]:
    """Why MULTI_TILE=True cannot be, on a platform whose cards have one tile."""
    if platform not in class_of_platform(platform).single_tile_platforms:
        return []
    return [
        f"MULTI_TILE=True with PLATFORM={platform} is not possible; a {platform} card has one tile, use "
        "MULTI_TILE=False, with DEVICES for several cards"
    ]


def places_of_ranks(settings: Settings) -> list[Placement]:
    """A place for each rank of this machine, by local rank.

    Raises:
        UserError: where the environment leaves open which device is which.
    """
    count = ranks_here(settings)
    if class_of_platform(settings.platform).is_host:
        return core_groups(topology.cores(), count, settings.threads)
    threads = max(1, settings.threads // count)
    cls = class_of_platform(settings.platform)
    return [Placement(cls.place_name(name), threads, variables=cls.variables_for(name)) for name in cls.visible_names()[:count]]


def told(places: Sequence[Placement], threads: int) -> str:
    """The places of this machine's ranks in a line, and where they leave some of these threads out."""
    each = places[0].threads
    fewer = (
        f"; each has {each} of {threads} threads, since the smallest has no more cores" if each < threads // len(places) else ""
    )
    return ", ".join(place.name for place in places) + fewer


def core_groups(cores: Sequence[topology.Core], count: int, threads: int) -> list[Placement]:
    """Groups of cores for `count` ranks with `threads` threads in all; memory is bound where there is a choice."""
    several = len(topology.by_node(topology.cores())) > 1
    groups = topology.split(cores, count)
    each, places = threads_of_each(groups, threads), []
    for group in groups:
        cpus = tuple(core.cpu for core in group[:each])
        nodes = tuple(sorted({core.node for core in group[:each]}))
        name = f"{'core' if len(cpus) == 1 else 'cores'} {topology.ranges(cpus)}"
        if several:
            name += f" of NUMA node {topology.ranges(nodes)}"
        places.append(Placement(name, each, cpus, nodes if several else ()))
    return places


def threads_of_each(groups: Sequence[Sequence[topology.Core]], threads: int) -> int:
    """Threads of each rank, equal ones for equal work, of `threads` in all.

    No more than the smallest group has cores, unless more threads were asked for than all of them have.
    """
    each = threads // len(groups)
    return each if threads > sum(map(len, groups)) else min(each, *map(len, groups))


def place_of_single(settings: Settings, device: Device) -> Placement | None:
    """Where a single rank should run on a machine with several NUMA nodes; None where it may run anywhere.

    On a GPU: on the cores of the node that the GPU is attached to. On a CPU, where no more threads are wanted than a
    node has cores: on the node with the most free memory. With INSTANCES=1 set by the user it is pinned in any case.
    """
    cores = topology.cores()
    nodes = topology.by_node(cores)
    asked = settings.sources["instances"] != "default"
    if not device.is_host:
        return beside_device(device, cores) if len(nodes) > 1 else None
    if len(nodes) < 2 and not asked:
        return None
    fitting = [node for node, own in nodes.items() if settings.threads <= len(own)]
    if fitting:
        return core_groups(nodes[max(fitting, key=topology.free_memory)], 1, settings.threads)[0]
    return core_groups(cores, 1, settings.threads)[0] if asked else None


def beside_device(device: Device, cores: Sequence[topology.Core]) -> Placement | None:
    """The cores beside a GPU, without the choice of the GPU; None where its node is not known or has none."""
    address = device.pci_address()
    node = topology.node_of_pci(address) if address else None
    own = tuple(core.cpu for core in cores if core.node == node)
    if node is None or not own:
        return None
    return Placement(f"cores {topology.ranges(own)} of NUMA node {node}", len(own), own, (node,))


def bind(place: Placement) -> Bound:
    """Bind the calling process to a place.

    Has to come before PyTorch starts threads: those that run already stay where they are.
    """
    os.environ.update(place.variables)
    if place.cpus:
        binding.pin(place.cpus)
    unbound = binding.bind_memory(place.memory_nodes) if place.memory_nodes else None
    return Bound(
        name=place.name,
        threads=place.threads,
        cpus=topology.ranges(place.cpus) or None,
        memory_nodes=topology.ranges(place.memory_nodes) if place.memory_nodes and not unbound else None,
        memory_not_bound=unbound,
        variables=dict(place.variables),
    )


def refuse_settings(asked: Asked) -> list[str]:
    """What can be said of the settings of placement and nodes without looking at the machine; a line each."""
    problems = []
    if asked.multi_tile and asked.platform is not None:
        problems += _refuse_tiles(asked.platform)
    if asked.multi_tile and (asked.devices is not None or asked.instances is not None):
        problems.append("MULTI_TILE=True takes every tile, device or NUMA node; leave DEVICES and INSTANCES out, or MULTI_TILE")
    if asked.nnodes > 1 and asked.rdzv_endpoint is None:
        problems.append(
            f"NNODES={asked.nnodes} needs RDZV_ENDPOINT=host:port, the same on every node: an address of "
            "node 0 and a free port there"
        )
    if asked.nnodes > 1 and asked.node_rank is None:
        problems.append(f"NNODES={asked.nnodes} needs NODE_RANK, 0 to {asked.nnodes - 1}, another on every node")
    if asked.node_rank is not None and asked.node_rank >= asked.nnodes:
        problems.append(f"NODE_RANK={asked.node_rank} does not fit NNODES={asked.nnodes}; use 0 to {asked.nnodes - 1}")
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        problems.append(
            "this process was started by torchrun; start ./run_model.sh itself, it starts torchrun where "
            "DEVICES, INSTANCES or NNODES ask for it"
        )
    return problems
