"""THREADS and STREAMS that a machine cannot start, or that would only wait."""

import making
import pytest

from unet3d.devices import host, process
from unet3d.errors import UserErrors


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    monkeypatch.setattr(host, "logical_cpus", lambda: 4)


def test_twice_the_cpus_may_be_asked_for():
    assert making.settings_of(threads=8).threads == 8


@pytest.mark.parametrize(("name", "value"), [("threads", 9), ("threads", 999_999_999), ("streams", 9)])
def test_more_is_refused_with_what_is_allowed(name, value):
    with pytest.raises(UserErrors) as caught:
        making.settings_of(**{"threads": 8, name: value})
    assert f"{name.upper()}={value} is more than twice the 4 CPUs of this machine; use 1 to 8" in caught.value.messages


def test_threads_that_the_system_does_not_start_are_told_before_anything_runs(monkeypatch):
    begun = []

    def refuse(thread):
        begun.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(process.threading.Thread, "start", refuse)
    with pytest.raises(UserErrors, match="8 threads cannot be started here; lower THREADS or STREAMS"):
        making.settings_of(threads=8)
    assert len(begun) == 1
