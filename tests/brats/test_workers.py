"""Work in processes: every item once, errors and killed workers reported, no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from unet3d.brats import workers
from unet3d.devices import host
from unet3d.errors import OutOfMemory, UserError

ROOT = Path(__file__).parents[2]


def square(number):
    return number * number, os.getpid()


def fail_at_three(number):
    if number == 3:
        raise UserError("three is bad")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def crash(number):
    if number % 3 == 1:
        os.kill(os.getpid(), {1: signal.SIGABRT, 4: signal.SIGSEGV, 7: signal.SIGBUS}[number])
    return number


def leave(number):
    sys.exit(number)


def die_of_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def chatter(number):
    if number:
        os.write(2, b"WARNING: of C++\n")
        print("and of Python", flush=True)


@pytest.mark.parametrize("processes", [workers.HERE, 1, 2])
def test_every_item_once(processes):
    results = dict(workers.run(square, range(5), processes, "Squaring"))
    assert {item: result for item, (result, _) in results.items()} == {n: n * n for n in range(5)}
    own = {pid == os.getpid() for _, pid in results.values()}
    assert own == {processes == workers.HERE}


def test_no_items():
    assert list(workers.run(square, [], None, "Squaring")) == []


def test_an_error_of_a_worker_is_raised_here():
    with pytest.raises(UserError, match="three is bad"):
        list(workers.run(fail_at_three, range(6), 2, "Failing"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_crash_costs_its_item_only(processes):
    crashes = {1: workers.Crash("SIGABRT"), 4: workers.Crash("SIGSEGV"), 7: workers.Crash("SIGBUS")}
    assert dict(workers.run(crash, range(9), processes, "Crashing")) == {n: crashes.get(n, n) for n in range(9)}


def test_a_worker_that_leaves_is_a_crash():
    assert dict(workers.run(leave, [7], 1, "Leaving")) == {7: workers.Crash("exit code 7")}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_worker_is_told_from_a_crash_and_the_others_finish(processes):
    seen = []
    with pytest.raises(OutOfMemory, match=r"killed, .* lack of memory, while it worked on 3; "):
        for item, _ in workers.run(die_of_three, range(6), processes, "Dying"):
            seen.append(item)
    assert sorted(seen) == [0, 1, 2, 4, 5]


@pytest.mark.parametrize("noisy", [False, True])
def test_what_libraries_print_goes_to_the_log(tmp_path, capfd, noisy):
    list(workers.run(chatter, [noisy], 1, "Working", tmp_path / "log"))
    assert capfd.readouterr() == ("", "Working\n")  # what is under way
    assert [file.read_text() for file in tmp_path.iterdir()] == (["WARNING: of C++\nand of Python\n"] if noisy else [])


def test_a_killed_worker_is_named():
    with pytest.raises(OutOfMemory, match=r"worker process was killed.*2 processes"):
        list(workers.run(die, range(2), 2, "Dying"))


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from unet3d.brats import workers\n"
        "def slow(n):\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(workers.run(slow, range(2), 2, 'Sleeping'))\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)})
    watched = psutil.Process(parent.pid)
    deadline = time.monotonic() + 30
    while not (children := [c for c in watched.children() if "spawn_main" in " ".join(c.cmdline())]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    for process in alive:
        process.kill()
    assert gone and not alive


def test_default_processes_fit_the_cpus_and_the_memory_of_a_container(monkeypatch):
    monkeypatch.setattr(host, "usable_cpus", lambda: 6)
    monkeypatch.setattr(host, "available_memory", lambda: 4 * workers.MEMORY_PER_CASE + 1)
    assert [workers.default_processes(items) for items in (1, 3, 100)] == [1, 3, 4]
    monkeypatch.setattr(host, "usable_cpus", lambda: 2)
    assert workers.default_processes(100) == 2
    monkeypatch.setattr(host, "available_memory", lambda: 0)
    assert workers.default_processes(100) == 1
