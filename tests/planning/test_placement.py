"""Places for ranks on machines that are not here, and what pooling and scaling compute, without any rank."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import making
import pytest

from unet3d.commands import scaling
from unet3d.config import kinds
from unet3d.devices import host, registry, topology
from unet3d.devices.cpu import CpuDevice
from unet3d.devices.topology import Core
from unet3d.errors import MismatchError, UserErrors
from unet3d.planning import placement, resolve
from unet3d.ranks import pool, spool
from unet3d.results.facts import Bound, PeakMemory, RunWarning, VolumesFacts, WarmUpFacts
from unet3d.results.record import Record
from unet3d.results.timing import Sample, summarise

ROOT = Path(__file__).parents[2]
TWO_SOCKETS = [Core(node, 8 * node + number) for node in (0, 1) for number in range(8)]


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch):
    """The machines made up here have more CPUs than this one may have."""
    monkeypatch.setattr(host, "logical_cpus", lambda: 64)


def machine(folder, nodes, siblings):
    """/sys/devices/system of a machine: nodes as {number: cpulist}, siblings as lists of hardware threads of a core."""
    for number, cpus in nodes.items():
        node = folder / "node" / f"node{number}"
        node.mkdir(parents=True)
        (node / "cpulist").write_text(f"{cpus}\n")
        (node / "meminfo").write_text(f"Node {number} MemTotal: 9 kB\nNode {number} MemFree:     {1000 * (number + 1)} kB\n")
    for core in siblings:
        for cpu in core:
            folder_of_cpu = folder / "cpu" / f"cpu{cpu}" / "topology"
            folder_of_cpu.mkdir(parents=True)
            (folder_of_cpu / "thread_siblings_list").write_text(topology.ranges(core) + "\n")
    return folder


def test_cores_are_counted_once_by_node_and_only_those_allowed(tmp_path):
    system = machine(tmp_path, {0: "0-1,4-5", 1: "2-3,6-7", 2: ""}, [[0, 4], [1, 5], [2, 6], [3, 7]])
    assert topology.cores(range(8), system) == [Core(0, 0), Core(0, 1), Core(1, 2), Core(1, 3)]
    assert topology.cores([5, 3, 7], system) == [Core(0, 5), Core(1, 3)]
    assert topology.free_memory(1, system) == 2000 * 1024


def test_this_machines_cores_are_those_that_lscpu_shows():
    shown = subprocess.run(["lscpu", "-p=cpu,core,node"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(",") for line in shown.splitlines() if not line.startswith("#")]
    allowed = {str(cpu) for cpu in os.sched_getaffinity(0)}
    assert len(topology.cores()) == len({core for cpu, core, _ in rows if cpu in allowed})


@pytest.mark.parametrize(
    ("groups", "sizes", "astride"),
    [(1, [16], 1), (2, [8, 8], 0), (4, [4] * 4, 0), (3, [5, 6, 5], 1), (6, [3, 2, 3, 3, 2, 3], 0), (16, [1] * 16, 0)],
)
def test_groups_stay_within_a_node_where_their_number_allows_it(groups, sizes, astride):
    parts = topology.split(TWO_SOCKETS, groups)
    assert sorted(len(part) for part in parts) == sorted(sizes)
    assert [core for part in parts for core in part] == TWO_SOCKETS
    assert sum(len({core.node for core in part}) > 1 for part in parts) == astride


def test_a_node_with_few_allowed_cores_does_not_starve_a_group():
    parts = topology.split([Core(0, 0), *[Core(1, cpu) for cpu in range(8, 15)]], 4)
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    with pytest.raises(ValueError, match="3 groups of 2"):
        topology.split([Core(0, 0), Core(0, 1)], 3)


@pytest.mark.parametrize("text", ["0-3,8,10-11", "5", "0-1"])
def test_lists_of_cpus_are_the_kernels(text):
    assert topology.ranges(topology.numbers(text)) == text


def settings_of(monkeypatch, cores=None, **variables):
    if cores is not None:
        monkeypatch.setattr(topology, "cores", lambda: list(cores))
        monkeypatch.setattr("unet3d.devices.host.usable_cores", lambda: len(cores))
    return making.settings_of(**{"precision": "fp32", **variables})


def test_multi_tile_on_a_cpu_is_one_rank_a_node_with_its_own_memory(monkeypatch):
    settings = settings_of(monkeypatch, TWO_SOCKETS, multi_tile="True")
    places = placement.places_of_ranks(settings)
    assert [(place.name, place.threads, place.memory_nodes) for place in places] == [
        ("cores 0-7 of NUMA node 0", 8, (0,)),
        ("cores 8-15 of NUMA node 1", 8, (1,)),
    ]


def test_instances_share_out_threads_and_cores(monkeypatch):
    places = placement.places_of_ranks(settings_of(monkeypatch, TWO_SOCKETS, instances=4, threads=8))
    assert [place.cpus for place in places] == [(0, 1), (4, 5), (8, 9), (12, 13)]
    assert {place.threads for place in places} == {2}
    alone = placement.places_of_ranks(settings_of(monkeypatch, [Core(0, 0), Core(0, 1)], instances=2))
    assert [(place.name, place.memory_nodes) for place in alone] == [("core 0", ()), ("core 1", ())]


@pytest.mark.parametrize(("threads", "each"), [(8, 2), (4, 2), (2, 1), (20, 10)])
def test_ranks_on_nodes_of_different_size_are_equal_and_have_a_core_a_thread(monkeypatch, threads, each):
    """Unless more threads are asked for than there are cores, of which a warning tells."""
    cores = [*(Core(0, cpu) for cpu in range(6)), Core(1, 6), Core(1, 7)]
    settings = settings_of(monkeypatch, cores, multi_tile="True", threads=threads)
    places = placement.places_of_ranks(settings)
    assert [place.threads for place in places] == [each, each]
    assert [len(place.cpus) for place in places] == ([each, each] if threads <= 8 else [6, 2])
    assert [place.memory_nodes for place in places] == [(0,), (1,)]
    fewer = "; each has 2 of 8 threads, since the smallest has no more cores"
    assert placement.told(places, threads).endswith(fewer) == (threads == 8)
    with pytest.raises(UserErrors, match=f"STREAMS={each + 1} is more than the {each} CPU threads of an instance"):
        settings_of(monkeypatch, cores, multi_tile="True", threads=threads, streams=each + 1)


@pytest.mark.parametrize(
    ("variables", "free", "node"),
    [
        ({"threads": 6}, {0: 1, 1: 2}, 1),
        ({"threads": 6}, {0: 3, 1: 2}, 0),
        ({"threads": 16}, {0: 1, 1: 2}, None),
        ({}, {0: 1, 1: 2}, None),
    ],
)
def test_one_rank_goes_to_the_node_with_the_most_free_memory_where_it_fits_one(monkeypatch, variables, free, node):
    monkeypatch.setattr(topology, "free_memory", free.get)
    place = placement.place_of_single(settings_of(monkeypatch, TWO_SOCKETS, **variables), CpuDevice())
    if node is None:
        assert place is None
    else:
        assert place.memory_nodes == (node,) and place.cpus == tuple(range(8 * node, 8 * node + 6))


def test_one_rank_on_a_machine_with_one_node_is_left_alone_unless_asked(monkeypatch):
    one = [Core(0, 0), Core(0, 1)]
    assert placement.place_of_single(settings_of(monkeypatch, one), CpuDevice()) is None
    assert placement.place_of_single(settings_of(monkeypatch, one, threads=1), CpuDevice()) is None
    assert placement.place_of_single(settings_of(monkeypatch, one, threads=1, instances=1), CpuDevice()).cpus == (0,)


def test_one_gpu_gets_the_cores_beside_it(monkeypatch, tmp_path):
    (tmp_path / "0000:3b:00.0").mkdir()
    (tmp_path / "0000:3b:00.0" / "numa_node").write_text("1\n")
    device = SimpleNamespace(pci_address=lambda: "0000:3b:00.0")
    monkeypatch.setattr(topology.node_of_pci, "__defaults__", (tmp_path,))
    place = placement.beside_device(device, TWO_SOCKETS)
    assert place.cpus == tuple(range(8, 16)) and place.memory_nodes == (1,)
    (tmp_path / "0000:3b:00.0" / "numa_node").write_text("-1\n")
    assert placement.beside_device(device, TWO_SOCKETS) is None


class Runtime:
    """Stands for torch.cuda or torch.xpu on a machine with so many devices of two tiles."""

    def __init__(self, count):
        self._count = count

    def device_count(self):
        return self._count

    def get_device_properties(self, index):
        return SimpleNamespace(max_num_sub_devices=2)

    def set_device(self, index):
        pass


@pytest.mark.parametrize(
    ("platform", "count", "variables", "names"),
    [
        ("CUDA", 4, {}, ["0", "1", "2", "3"]),
        ("CUDA", 2, {"CUDA_VISIBLE_DEVICES": "3,GPU-5e0a"}, ["3", "GPU-5e0a"]),
        ("Max", 4, {}, ["0", "1", "2", "3"]),
        ("Max", 2, {"ZE_AFFINITY_MASK": "2,3"}, ["2", "3"]),
        ("Max", 2, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE"}, ["0.0", "0.1", "1.0", "1.1"]),
        ("Max", 1, {"ZE_FLAT_DEVICE_HIERARCHY": "composite", "ZE_AFFINITY_MASK": "1"}, ["1.0", "1.1"]),
        ("Max", 1, {"ZE_FLAT_DEVICE_HIERARCHY": "COMPOSITE", "ZE_AFFINITY_MASK": "0.1"}, ["0.1"]),
    ],
)
def test_each_rank_is_shown_one_tile_or_device(monkeypatch, platform, count, variables, names):
    for name in ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ZE_FLAT_DEVICE_HIERARCHY", "ONEAPI_DEVICE_SELECTOR"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    cls = registry.class_of_platform(platform)
    monkeypatch.setattr(cls, "runtime", classmethod(lambda cls: Runtime(count)))
    asked = making.asked_of(platform=platform, threads=8)
    asked = replace(asked, multi_tile=True)
    counts, problems = placement.counts(asked, platform, 8, resolve.Decisions().fill)
    assert not problems and counts == placement.Counts(len(names), 1)
    settings = replace(making.settings_of(threads=8), platform=platform, devices=counts.devices, instances=1)
    assert placement.needs_ranks(settings) == (len(names) > 1)
    places = placement.places_of_ranks(settings)
    variable = "CUDA_VISIBLE_DEVICES" if platform == "CUDA" else "ZE_AFFINITY_MASK"
    assert [place.variables[variable] for place in places] == names
    if platform == "Max":
        expected = variables.get("ZE_FLAT_DEVICE_HIERARCHY", "FLAT").upper()
        assert {place.variables["ZE_FLAT_DEVICE_HIERARCHY"] for place in places} == {expected}
    # What one of them times, the others' load would disturb.
    _, problems = placement.counts(replace(asked, tune=True), platform, 8, resolve.Decisions().fill)
    assert [line.partition(";")[0] for line in problems] == [
        f"TUNE=yes on {len(names)} ranks is not possible, each would disturb the others' times"
    ][: len(names) - 1]
    _, problems = placement.counts(replace(asked, devices=len(names) + 1), platform, 8, resolve.Decisions().fill)
    assert f"is more than the {len(names)} that PyTorch sees" in problems[0]


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({"platform": "Flex", "multi_tile": "True"}, "a Flex card has one tile"),
        ({"multi_tile": "True", "instances": 2}, "leave DEVICES and INSTANCES out"),
        ({"nnodes": 2, "node_rank": 0}, "RDZV_ENDPOINT=host:port"),
        ({"nnodes": 2, "rdzv_endpoint": "a:1"}, "NODE_RANK, 0 to 1"),
        ({"nnodes": 2, "rdzv_endpoint": "a:1", "node_rank": 2}, "does not fit"),
        ({"devices": 2}, "use INSTANCES for groups of cores"),
        ({"instances": 17}, "more than the 16 CPU threads and cores"),
        ({"instances": 4, "threads": 8, "streams": 3}, "more than the 2 CPU threads of an instance"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(monkeypatch, variables, part):
    with pytest.raises(UserErrors) as refused:
        settings_of(monkeypatch, TWO_SOCKETS, **variables)
    assert len(refused.value.messages) == 1 and part in refused.value.messages[0]


def test_a_rank_is_pinned_and_its_memory_bound_and_the_kernel_says_so():
    code = (
        "from unet3d.devices import topology\n"
        "from unet3d.planning import placement\n"
        "core = topology.cores()[-1]\n"
        "told = placement.bind(placement.Placement('one', 1, (core.cpu,), (core.node,)))\n"
        "import os, re\n"
        "memory = bytearray(50_000_000)\n"
        "maps = open('/proc/self/numa_maps').read()\n"
        "print(sorted(os.sched_getaffinity(0)) == [core.cpu], told.memory_not_bound, f'bind:{core.node}' in maps)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if "set_mempolicy" in ended.stdout or "libnuma" in ended.stdout:
        pytest.skip(ended.stdout.strip())
    assert ended.stdout.split() == ["True", "None", "True"], ended.stderr


def test_the_window_of_many_ranks_is_that_of_the_slowest():
    samples = [
        Sample(start=0.1, latency=1.0, stage=0.1, rank=0),
        Sample(start=1.2, latency=1.0, stage=0.1, rank=0),
        Sample(start=0.3, latency=1.5, stage=0.2, rank=1),
        Sample(start=2.0, latency=1.5, stage=0.2, post=0.5, rank=1),
    ]
    stats = summarise(samples)
    assert stats.throughput == pytest.approx(4 / 3.0)
    assert stats.throughput_with_overhead == pytest.approx(4 / 4.0)
    assert stats.mean == pytest.approx(1250) and stats.p50 == 1000 and stats.p90 == 1500
    # Too few calls for two streams in each rank: all of them count, and seconds in which no call is in inference do not.
    several = summarise(samples, streams=2)
    assert several.throughput == pytest.approx(4 / 3.0)
    assert several.throughput_with_overhead == pytest.approx(4 / 3.9)


def part(rank, latencies, clock="one", window_start=100.0, **changes):
    values = {
        "place": Bound(f"core {rank}", 1, str(rank), None, None, {}),
        "node": 0,
        "host": "here",
        "clock": clock,
        "window_start": window_start,
        "planned_calls": len(latencies),
        "samples": [Sample(start=float(i), latency=seconds, rank=rank) for i, seconds in enumerate(latencies)],
        "weights": making.weights_facts(sha256="x"),
        "data": VolumesFacts(kind="random"),
        "tflop_per_volume": 1.0,
        "effective": making.effective(),
        "check": making.agreement(),
        "warm_up": WarmUpFacts(1, "as set", rank != 1, []),
        "load_seconds": {"build": 1.0},
        "memory": PeakMemory(10, 5 + rank),
        "warnings": [],
    }
    return pool.Part(**{**values, **changes})


def pooled(*parts):
    record = Record(SimpleNamespace(streams=1))
    pool.pool(record, parts)
    return record


def test_ranks_of_one_machine_are_put_on_one_clock():
    record = pooled(
        part(0, [0.5, 0.5], window_start=100.25),
        part(1, [0.5, 0.5], window_start=100.0),
        part(2, [0.5, 0.5], clock="other", window_start=7.0),
    )
    starts = {rank: [sample.start for sample in record.samples if sample.rank == rank] for rank in range(3)}
    assert starts == {0: [0.25, 1.25], 1: [0.0, 1.0], 2: [0.0, 1.0]}
    assert record.pool["start_skew_s"] == 0.25
    assert record.pool["window_s"] == pytest.approx(1.75)
    assert record.pool["all_at_work"] == pytest.approx((1.5 - 0.25) / 1.75)
    assert record.memory == PeakMemory(30, 7)
    assert record.warm_up.settled is False


def test_the_slowest_rank_is_named():
    record = pooled(part(0, [1.0, 1.0]), part(1, [1.5, 1.5]))
    assert record.pool["slowest_rank"] == 1
    assert record.pool["slowest_behind"] == pytest.approx(0.5)
    assert [warning.name for warning in record.warnings] == ["uneven-ranks"]
    table = pool.table(record)
    assert len(table) == 4 and "rank 1, which took 50.0% longer" in table[-1]
    assert not pooled(part(0, [1.0]), part(1, [1.05])).warnings


def test_warnings_of_ranks_are_told_once():
    common, own = RunWarning("x", "of all"), RunWarning("y", "of one")
    record = pooled(part(0, [1.0], warnings=[common]), part(1, [1.0], warnings=[common, own]))
    assert [(warning.name, warning.message) for warning in record.warnings] == [("x", "of all"), ("y", "rank 1: of one")]


@pytest.mark.parametrize(
    "change",
    [
        {"tflop_per_volume": 2.0},
        {"weights": making.weights_facts(sha256="y")},
        {"data": VolumesFacts(kind="random", names_sha256="z")},
        {"effective": making.effective(precision="bf16")},
    ],
)
def test_ranks_that_ran_different_things_give_no_number(change):
    with pytest.raises(MismatchError, match="rank 1 on here ran"):
        pooled(part(0, [1.0]), part(1, [1.0], **change))


def test_what_a_killed_rank_has_written_can_be_read(tmp_path):
    path = spool.path_of(tmp_path, 0)
    writer, reader = spool.Writer(path), spool.Reader(path)
    reader.follow()
    assert reader.hello is None
    writer.hello(rank=3, size=4, pid=1)
    writer.step("measuring", True)
    writer.sample(Sample(start=1.0, latency=2.0, rank=3, cases=("a", "b")))
    with open(path, "ab") as file:
        file.write(b'{"sample": {"start": 1.0, "lat')
    reader.follow()
    assert (reader.hello["rank"], reader.step, reader.limited) == (3, "measuring", True)
    assert reader.samples == [Sample(start=1.0, latency=2.0, rank=3, cases=("a", "b"))]
    assert reader.error is None


def test_scaling_on_a_cpu_keeps_the_cores_of_a_rank_and_ends_with_one_rank_on_all():
    points = scaling.points((1, 2, 4), "CPU", 18)
    assert [(point.ranks, point.units) for point in points] == [(1, 4), (2, 8), (4, 16), (1, 16)]
    assert points[1].name == "2 x 4 cores" and points[-1].name == "1 x 16 cores"
    assert [(point.ranks, point.units) for point in scaling.points((1, 2), "CUDA", 18)] == [(1, 1), (2, 2)]


def test_efficiency_is_throughput_a_core_against_that_of_one_rank():
    rows = [
        {
            "name": "n",
            "ranks": ranks,
            "units": units,
            "throughput": throughput,
            "mean": 1.0,
            "p90": 1.0,
            "peak_host_bytes": 2**30,
        }
        for ranks, units, throughput in ((1, 1, 2.0), (2, 2, 3.0), (1, 2, 3.6))
    ]
    scaling.efficiency(rows)
    assert [(row["speed_up"], row["efficiency"]) for row in rows] == [(1.0, 1.0), (1.5, 0.75), (1.8, 0.9)]
    assert "75.0%" in scaling.table(rows)[2]


@pytest.mark.parametrize("text", ["2,4", "1", "1,1", "1,4,2", "1,x", "0,1"])
def test_scaling_begins_with_one_rank_and_ascends(text):
    with pytest.raises(ValueError, match="begin with 1"):
        kinds.counts(text)
    assert kinds.counts("1,2,4") == (1, 2, 4)


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:0", "host:70000", "host:x"])
def test_endpoints_name_host_and_port(text):
    with pytest.raises(ValueError, match="host:port"):
        kinds.endpoint(text)
    assert kinds.endpoint("[::1]:29500") == "[::1]:29500"
