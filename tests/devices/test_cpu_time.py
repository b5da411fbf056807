"""Who has the CPUs, by made-up counters of the kernel, and by this one's own with a child that burns."""

import os
import subprocess
import sys
import time

import pytest

from unet3d.devices import cpu_time
from unet3d.devices.cpu_time import Cpus, Reading, Throttling

TICK = os.sysconf("SC_CLK_TCK")
BURN = "import time\nend = time.perf_counter() + {}\nwhile time.perf_counter() < end: pass"


def stat(proc, *rows):
    """A /proc/stat with a row for each CPU, in seconds: user, nice, system, idle, iowait, irq, softirq, steal, guest, …"""
    lines = ["cpu  " + " ".join(str(int(TICK * sum(column))) for column in zip(*rows, strict=True))]
    lines += [f"cpu{number} " + " ".join(str(int(TICK * value)) for value in row) for number, row in enumerate(rows)]
    (proc / "stat").write_text("\n".join([*lines, "intr 123 4", "ctxt 5", "btime 6"]) + "\n")


def test_busy_idle_and_stolen_time_of_some_cpus(tmp_path):
    # A guest's seconds, the last two columns, are within user and nice.
    stat(tmp_path, (10, 1, 2, 50, 5, 0.5, 0.5, 3, 4, 0), (100, 0, 0, 7, 0, 0, 0, 0, 0, 0), (1, 0, 0, 9, 0, 0, 0, 0, 0, 0))
    assert cpu_time.cpus({0, 2}, tmp_path) == Cpus(count=2, busy=pytest.approx(18), idle=pytest.approx(64), stolen=3)
    assert cpu_time.cpus(proc=tmp_path).count == 3
    for unknown in (cpu_time.cpus({0}, tmp_path / "none"), cpu_time.cpus({2, 3}, tmp_path)):
        assert unknown == Cpus(0, 0, 0, 0)
        # Nobody can tell who has these CPUs: that is not said to be nobody.
        assert cpu_time.between(Reading(0, unknown, 0, Throttling(0, 0)), reading(1, 1, 1)) is None


def test_kernels_with_fewer_columns_have_no_steal(tmp_path):
    stat(tmp_path, (10, 1, 2, 50, 5, 1, 1))
    assert cpu_time.cpus(proc=tmp_path) == Cpus(1, 15, 55, 0)


def test_utilisation_is_that_since_the_reading_before():
    assert Cpus(2, 13, 7, 0).utilisation(Cpus(2, 10, 6, 0)) == pytest.approx(75)
    assert Cpus(2, 13, 7, 0).utilisation(Cpus(2, 13, 7, 0)) is None


def reading(at, busy, own, stolen=0.0, times=0, seconds=0.0):
    return Reading(at, Cpus(4, busy, 0, stolen), own, Throttling(times, seconds))


def test_what_is_neither_ours_nor_idle_is_others():
    seen = cpu_time.between(reading(10, 100, 50), reading(20, 136, 76, stolen=4, times=3, seconds=1.5))
    assert (seen.window_s, seen.cpus, seen.own_cpu_s, seen.others_cpu_s) == (10, 4, 26, 10)
    assert seen.others_share == pytest.approx(0.25) and seen.stolen_share == pytest.approx(0.1)
    assert (seen.throttled_times, seen.throttled_s) == (3, 1.5)
    # The kernel's two counters have steps, so that ours may be a little more than all.
    assert cpu_time.between(reading(0, 0, 0), reading(1, 3.99, 4.0)).others_cpu_s == 0
    # Ticks of the counters may end after the clock was read.
    assert cpu_time.between(reading(0, 0, 0), reading(1, 4.02, 0)).others_share == 1


@pytest.mark.parametrize(
    ("membership", "folder", "text", "expected"),
    [
        ("0::/jobs/one", "jobs", "usage_usec 5\nnr_periods 9\nnr_throttled 7\nthrottled_usec 2500000\n", Throttling(7, 2.5)),
        ("0::/", ".", "usage_usec 5\n", Throttling(0, 0)),
        ("4:cpu,cpuacct:/x", "cpu,cpuacct/x", "nr_periods 9\nnr_throttled 2\nthrottled_time 1500000000\n", Throttling(2, 1.5)),
        ("4:memory:/x", "memory/x", "nr_throttled 2\n", Throttling(0, 0)),
    ],
)
def test_throttling_is_of_the_group_whose_limit_is_met(tmp_path, membership, folder, text, expected):
    """Version 2 with the limit above the process's own group, a group without limit, version 1, another controller."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(membership + "\n")
    (tmp_path / "groups" / folder).mkdir(parents=True)
    (tmp_path / "groups" / folder / "cpu.stat").write_text(text)
    assert cpu_time.throttling(tmp_path, tmp_path / "groups") == expected


def test_children_are_ours_and_strangers_are_not():
    """A child's time is ours while it runs and after it has ended; seen from the child, ours is others'."""
    before = cpu_time.read()
    child = subprocess.Popen([sys.executable, "-c", BURN.format(1.0)])
    strangers = cpu_time.read(child.pid)
    time.sleep(0.6)
    running = cpu_time.read()
    child.wait()
    after = cpu_time.read()
    assert 0.1 < cpu_time.between(before, running).own_cpu_s < cpu_time.between(before, after).own_cpu_s

    end = time.perf_counter() + 0.5
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    first = cpu_time.read(other.pid)
    while time.perf_counter() < end:
        pass
    seen = cpu_time.between(first, cpu_time.read(other.pid))
    other.kill()
    other.wait()
    assert strangers.own < 1 and seen.own_cpu_s < 0.2
    assert seen.others_cpu_s > 0.1 and 0 < seen.others_share <= 1
