"""Which tile, device, NUMA node or group of cores each rank of this machine gets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unet3d.devices import binding, topology
from unet3d.devices.registry import class_of_platform
from unet3d.files import prepare_folder


@dataclass(frozen=True)
class Placement:
    """Where a rank runs. variables: environment variables that show it its device alone."""

    name: str  # as users know it: "GPU 1", "tile 0.1", "cores 4-7 of NUMA node 1"
    threads: int
    cpus: tuple[int, ...] = ()  # empty: not pinned
    memory_nodes: tuple[int, ...] = ()  # empty: not bound
    variables: Mapping[str, str] = field(default_factory=dict)


def ranks_here(settings: Any) -> int:
    """Ranks on this machine."""
    return settings.instances * settings.devices


def many(settings: Any) -> bool:
    """Whether the run needs more than one rank, and so torchrun."""
    return ranks_here(settings) > 1 or settings.nnodes > 1


def decide(settings: Any) -> list[str]:
    """Fill in INSTANCES and DEVICES, and where nodes other than 0 keep their logs; what is wrong, a line each.

    Raises:
        UserError: when that folder cannot be written to, or as `Device.visible_names`.
    """
    if settings.node_rank:
        settings.decide("output_dir", settings.output_dir / f"node{settings.node_rank}", "node 0 writes the results")
        prepare_folder(settings.output_dir, "OUTPUT_DIR")
    problems = _on_cpu(settings) if settings.platform == "CPU" else _on_devices(settings)
    if not problems and many(settings) and settings.scenario != "Default":
        problems.append(
            f"SCENARIO={settings.scenario} on {ranks_here(settings) * settings.nnodes} ranks is not possible; "
            "LoadGen paces one process, use SCENARIO=Default or one rank"
        )
    return problems


def _on_cpu(settings: Any) -> list[str]:
    problems = []
    if settings.devices not in (None, 1):
        problems.append(f"DEVICES={settings.devices} with PLATFORM=CPU is not possible; use INSTANCES for groups of cores")
    settings.decide("devices", 1, "PLATFORM=CPU")
    if settings.instances is None:
        nodes = len(topology.by_node(topology.cores())) if settings.multi_tile else 1
        settings.decide(
            "instances",
            nodes,
            "MULTI_TILE=True: NUMA nodes with cores for this process" if settings.multi_tile else "one process",
        )
    most = min(settings.threads, len(topology.cores()))
    if settings.instances > most:
        problems.append(
            f"INSTANCES={settings.instances} is more than the {most} CPU threads and cores; lower INSTANCES or raise THREADS"
        )
    elif settings.instances > 1 and settings.streams > settings.threads // settings.instances:
        problems.append(
            f"STREAMS={settings.streams} is more than the {settings.threads // settings.instances} CPU threads "
            "of an instance; lower STREAMS or INSTANCES"
        )
    return problems


def _on_devices(settings: Any) -> list[str]:
    problems = []
    if settings.instances not in (None, 1):
        problems.append(f"INSTANCES={settings.instances} with PLATFORM={settings.platform} is not possible; use DEVICES")
    settings.decide("instances", 1, f"PLATFORM={settings.platform}")
    if settings.multi_tile:
        problems += _refuse_tiles(settings.platform)
    if settings.devices is None and not settings.multi_tile:
        settings.decide("devices", 1, "one device")
        return problems
    cls = class_of_platform(settings.platform)
    visible = len(cls.visible_names())
    if settings.devices in (None, "all"):
        settings.decide("devices", visible, "every tile or device that is visible")
    elif settings.devices > visible:
        problems.append(
            f"DEVICES={settings.devices} is more than the {visible} that PyTorch sees; lower DEVICES, or show "
            f"it more ({cls.visibility_variable})"
        )
    return problems


def _refuse_tiles(platform: str) -> list[str]:
    """Why MULTI_TILE=True cannot be, on a platform whose cards have one tile."""
    if platform not in class_of_platform(platform).single_tile_platforms:
        return []
    return [
        f"MULTI_TILE=True with PLATFORM={platform} is not possible; a {platform} card has one tile, use "
        "MULTI_TILE=False, with DEVICES for several cards"
    ]


def plan(settings: Any) -> list[Placement]:
    """A place for each rank of this machine, by local rank.

    Raises:
        UserError: where the environment leaves open which device is which.
    """
    count = ranks_here(settings)
    if settings.platform == "CPU":
        return core_groups(topology.cores(), count, settings.threads)
    threads = max(1, settings.threads // count)
    cls = class_of_platform(settings.platform)
    return [Placement(cls.place_name(name), threads, variables=cls.variables_for(name)) for name in cls.visible_names()[:count]]


def core_groups(cores: Sequence[topology.Core], count: int, threads: int) -> list[Placement]:
    """Groups of cores for `count` ranks with `threads` threads in all; memory is bound where there is a choice."""
    several = len(topology.by_node(topology.cores())) > 1
    each, places = threads // count, []
    for group in topology.split(cores, count):
        cpus = tuple(core.cpu for core in group[:each])
        nodes = tuple(sorted({core.node for core in group[:each]}))
        name = f"{'core' if len(cpus) == 1 else 'cores'} {topology.ranges(cpus)}"
        if several:
            name += f" of NUMA node {topology.ranges(nodes)}"
        places.append(Placement(name, each, cpus, nodes if several else ()))
    return places


def alone(settings: Any) -> Placement | None:
    """Where a single rank should run on a machine with several NUMA nodes; None where it may run anywhere.

    On a GPU: on the cores of the node that the GPU is attached to. On a CPU, where fewer threads are wanted than a node
    has cores: on the node with the most free memory. With INSTANCES=1 set by the user it is pinned in any case.
    """
    cores = topology.cores()
    nodes = topology.by_node(cores)
    asked = settings.sources["instances"] != "default"
    if settings.platform != "CPU":
        return near(settings.device, cores) if len(nodes) > 1 else None
    if len(nodes) < 2 and not asked:
        return None
    fitting = [node for node, own in nodes.items() if settings.threads <= len(own)]
    if fitting:
        return core_groups(nodes[max(fitting, key=topology.free_memory)], 1, settings.threads)[0]
    return core_groups(cores, 1, settings.threads)[0] if asked else None


def near(device: Any, cores: Sequence[topology.Core]) -> Placement | None:
    """The cores beside a GPU, without the choice of the GPU; None where its node is not known or has none."""
    address = device.pci_address()
    node = topology.node_of_pci(address) if address else None
    own = tuple(core.cpu for core in cores if core.node == node)
    if not own:
        return None
    return Placement(f"cores {topology.ranges(own)} of NUMA node {node}", len(own), own, (node,))


def take(place: Placement) -> dict[str, Any]:
    """Bind the calling process to a place; what results tell of it.

    Has to come before PyTorch starts threads: those that run already stay where they are.
    """
    os.environ.update(place.variables)
    if place.cpus:
        binding.pin(place.cpus)
    unbound = binding.bind_memory(place.memory_nodes) if place.memory_nodes else None
    return {
        "name": place.name,
        "threads": place.threads,
        "cpus": topology.ranges(place.cpus) or None,
        "memory_nodes": topology.ranges(place.memory_nodes) if place.memory_nodes and not unbound else None,
        "memory_not_bound": unbound,
        "variables": dict(place.variables),
    }


def refuse_unclear(given: Mapping[str, Any]) -> list[str]:
    """What can be said of the settings of this package without looking at the machine; a line each."""
    value = {name: item.value for name, item in given.items()}
    problems = []
    if value["multi_tile"] and value["platform"] is not None:
        problems += _refuse_tiles(value["platform"])
    if value["multi_tile"] and (value["devices"] is not None or value["instances"] is not None):
        problems.append("MULTI_TILE=True takes every tile, device or NUMA node; leave DEVICES and INSTANCES out, or MULTI_TILE")
    if value["nnodes"] > 1 and value["rdzv_endpoint"] is None:
        problems.append(
            f"NNODES={value['nnodes']} needs RDZV_ENDPOINT=host:port, the same on every node: an address of "
            "node 0 and a free port there"
        )
    if value["nnodes"] > 1 and value["node_rank"] is None:
        problems.append(f"NNODES={value['nnodes']} needs NODE_RANK, 0 to {value['nnodes'] - 1}, another on every node")
    if value["node_rank"] is not None and value["node_rank"] >= value["nnodes"]:
        problems.append(f"NODE_RANK={value['node_rank']} does not fit NNODES={value['nnodes']}; use 0 to {value['nnodes'] - 1}")
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        problems.append(
            "this process was started by torchrun; start ./run_model.sh itself, it starts torchrun where "
            "DEVICES, INSTANCES or NNODES ask for it"
        )
    return problems
