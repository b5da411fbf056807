"""Limits of control groups, of version 1 and 2, by made-up files of the kernel."""

import pytest

from unet3d.devices import control_groups, host


@pytest.fixture
def kernel(tmp_path):
    """Writes a membership and the groups' files; what functions are to be given."""

    def write(membership, **files):
        (tmp_path / "self").mkdir()
        (tmp_path / "self" / "cgroup").write_text(membership + "\n")
        for name, text in files.items():
            path = tmp_path / "groups" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path, tmp_path / "groups"

    return write


def test_the_tightest_limit_of_version_2_counts_wherever_it_is_set(kernel):
    own, above = "jobs__one__", "jobs__"
    given = kernel(
        "0::/jobs/one",
        **{
            f"{own}cpu_DOT_max": "max 100000",
            f"{above}cpu_DOT_max": "250000 100000",
            f"{own}memory_DOT_max": "5000",
            f"{own}memory_DOT_current": "1000",
            f"{above}memory_DOT_max": "max",
            f"{above}memory_DOT_current": "7000",
            f"{own}memory_DOT_events": "low 0\noom 3\noom_kill 2",
        },
    )
    assert control_groups.cpu_quota(*given) == 2.5
    assert control_groups.memory_left(*given) == 4000
    assert control_groups.oom_kills(*given) == 2


def test_version_1_in_a_container_that_sees_its_groups_as_the_root(kernel):
    """Its membership names the host's path, which is not there; without a limit the kernel writes a number."""
    given = kernel(
        "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/",
        **{
            "cpu,cpuacct__cpu_DOT_cfs_quota_us": "150000",
            "cpu,cpuacct__cpu_DOT_cfs_period_us": "100000",
            "memory__memory_DOT_limit_in_bytes": "9223372036854771712",
            "memory__memory_DOT_usage_in_bytes": "4096",
            "memory__memory_DOT_oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
        },
    )
    assert control_groups.cpu_quota(*given) == 1.5
    assert control_groups.memory_left(*given) is None
    assert control_groups.oom_kills(*given) == 1


def test_pages_of_files_that_the_kernel_can_give_up_are_left(kernel):
    """As after preprocessing: a limit that is full of what was read and written."""
    given = kernel(
        "0::/jobs/one",
        **{
            "jobs__one__memory_DOT_max": "10000",
            "jobs__one__memory_DOT_current": "9000",
            "jobs__one__memory_DOT_stat": "anon 2500\nfile 6500\ninactive_file 6000\nactive_file 500",
            "jobs__memory_DOT_max": "20000",
            "jobs__memory_DOT_current": "14000",
        },
    )
    assert control_groups.memory_left(*given) == 6000


def test_version_1_counts_the_file_cache_of_the_groups_below(kernel):
    given = kernel(
        "4:memory:/x",
        **{
            "memory__x__memory_DOT_limit_in_bytes": "10000",
            "memory__x__memory_DOT_usage_in_bytes": "9000",
            "memory__x__memory_DOT_stat": "inactive_file 1\ntotal_inactive_file 4000",
        },
    )
    assert control_groups.memory_left(*given) == 5000


@pytest.mark.parametrize("quota", ["-1", "max", "", "many"])
def test_no_limit_is_none(kernel, quota):
    given = kernel("4:cpu:/x\n0::/x", cpu__x__cpu_DOT_cfs_quota_us=quota, cpu__x__cpu_DOT_cfs_period_us="100000")
    assert control_groups.cpu_quota(*given) is None
    assert control_groups.memory_left(*given) is None
    assert control_groups.oom_kills(*given) == 0


@pytest.mark.parametrize(("quota", "cpus"), [(None, 6), (2.5, 2), (0.5, 1), (64.0, 6)])
def test_a_quota_lowers_the_number_of_usable_cpus(monkeypatch, quota, cpus):
    monkeypatch.setattr(control_groups, "cpu_quota", lambda: quota)
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: set(range(6)))
    assert host.usable_cpus() == cpus


def test_memory_is_what_the_machine_and_the_limit_both_have(monkeypatch):
    free = host.available_memory()
    monkeypatch.setattr(control_groups, "memory_left", lambda: 1000)
    assert host.available_memory() == 1000
    monkeypatch.setattr(control_groups, "memory_left", lambda: 2**60)
    assert host.available_memory() == pytest.approx(free, rel=0.5)
