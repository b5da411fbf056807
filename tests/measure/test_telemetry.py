"""Telemetry: what the counters say, what is not there, and that it stays out of the measured calls."""

import os
import stat
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from unet3d.devices.cpu import CpuDevice
from unet3d.measure.telemetry import sources, watch, xpu_smi
from unet3d.results.console import Console


def domain(root, number, name, microjoules, largest=1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", largest)):
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


def test_rapl_adds_packages_alone_and_counts_over_the_wrap(tmp_path):
    first, second = domain(tmp_path, "0", "package-0", 100), domain(tmp_path, "1", "package-1", 900_000)
    core = domain(tmp_path, "0:0", "core", 5)
    domain(tmp_path, "2", "psys", 5)
    counter = sources.Rapl(tmp_path)
    assert counter.joules() == 0
    first.write_text("400100")
    core.write_text("300000")
    assert counter.joules() == pytest.approx(0.4)
    second.write_text("50000")  # went over its largest value, 1,000,000
    assert counter.joules() == pytest.approx(0.4 + 0.15)


def test_rapl_says_why_there_is_none(tmp_path, monkeypatch):
    with pytest.raises(sources.Absent, match="no RAPL counter"):
        sources.Rapl(tmp_path / "nowhere")
    domain(tmp_path, "0", "package-0", 1)
    read = Path.read_text

    def for_root_only(path, *rest, **named):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *rest, **named)

    monkeypatch.setattr(Path, "read_text", for_root_only)
    with pytest.raises(sources.Absent, match="readable by root only"):
        sources.Rapl(tmp_path)


def test_host_figures_are_the_machines(monkeypatch):
    host = sources.Host()
    end = time.perf_counter() + 0.2
    while time.perf_counter() < end:
        pass
    found = host.read()
    assert 0 < found["cpu_utilisation_percent"] <= 100
    assert found["process_cpu_percent"] > 10
    assert found["process_memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert 0 < found["host_memory_bytes"] < psutil.virtual_memory().total
    hot = {"k10temp": [SimpleNamespace(current=41.0), SimpleNamespace(current=55.5)], "nvme": [SimpleNamespace(current=90.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: hot)
    assert host.read()["cpu_temperature_c"] == 55.5
    assert not any("temperature" in text for text in host.lacking())
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    assert any("temperature" in text for text in host.lacking())


def test_no_series_of_utilisation_begins_with_zero():
    """The counters are set by one thread and read by another."""
    stop = threading.Event()

    def burn():
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=burn)
    sampler = watch.Sampler([sources.Host()], period=0.1)
    thread.start()
    sampler.start()
    time.sleep(0.35)
    series = sampler.stop()["series"]["cpu_utilisation_percent"]
    stop.set()
    thread.join()
    known = [value for value in series if value is not None]
    # One core in full at least, whatever others do; the counters have steps of 0.01 s.
    assert known[0] > 0.5 * 100 / psutil.cpu_count()


class Counter:
    """A source with 20 W and a metric that fails at every second reading."""

    name = "RAPL"

    def __init__(self):
        self.readings, self.closed, self.begin = 0, False, time.perf_counter()

    def read(self):
        self.readings += 1
        if self.readings % 2 == 0:
            raise OSError("the sensor slept")
        return {"cpu_temperature_c": 40.0 + self.readings}

    def joules(self):
        return 1000 + 20 * (time.perf_counter() - self.begin)

    def close(self):
        self.closed = True


def test_sampler_reads_beside_the_work_and_once_after_it():
    counter = Counter()
    sampler = watch.Sampler([counter], period=0.05)
    sampler.start()
    time.sleep(0.28)
    found = sampler.stop()
    assert counter.closed and 3 <= found["samples"] <= 6
    assert found["joules"]["RAPL"] == pytest.approx(20 * found["window_s"], rel=0.05)
    assert found["summary"]["cpu_power_w"]["mean"] == pytest.approx(20, rel=0.05)
    values = found["series"]["cpu_temperature_c"]
    assert None in values and len(values) == len(found["series"]["time_s"]) == found["samples"]
    assert found["series"]["time_s"] == sorted(found["series"]["time_s"])
    assert found["sampling_share"] < 0.5


VOLUMES = 4


@pytest.fixture
def lines():
    return []


@pytest.fixture
def out(lines):
    return Console(stream=SimpleNamespace(write=lines.append, flush=lambda: None))


def test_joules_a_volume_only_where_a_counter_was_read(monkeypatch, out, lines):
    monkeypatch.setattr(sources, "available", lambda device: ([Counter()], []))
    with watch.watching(CpuDevice(), out) as watched:
        time.sleep(0.05)
    telemetry, rows = watch.section(watched, VOLUMES)
    energy, figures = telemetry["energy"], {key: value for key, value, _ in rows}
    assert energy["joules_per_volume"]["RAPL"] == pytest.approx(energy["joules"]["RAPL"] / 4)
    assert figures["energy_per_volume_cpu"] == energy["joules_per_volume"]["RAPL"]
    assert not lines

    monkeypatch.setattr(sources, "available", lambda device: ([sources.Host()], ["CPU power (none)", "clocks"]))
    with watch.watching(CpuDevice(), out) as watched:
        time.sleep(0.05)
    telemetry, rows = watch.section(watched, VOLUMES)
    assert telemetry["energy"] is None
    assert not any("energy" in key for key, _, _ in rows)
    assert telemetry["absent"] == ["CPU power (none)", "clocks"]
    assert "".join(lines).count("CPU power (none)") == 1


def test_several_ranks_share_one_machine_so_no_rank_claims_its_energy(monkeypatch):
    sampler = watch.Sampler([Counter()], period=10)
    sampler.start()
    telemetry, _ = watch.section(watch.Watched(sampler.stop()), VOLUMES, ranks=2)
    assert telemetry["energy"] is None


def test_off_means_nothing_runs(monkeypatch, out):
    monkeypatch.setattr(sources, "available", lambda device: pytest.fail("telemetry is off"))
    with watch.watching(CpuDevice(), out, enabled=False) as watched:
        pass
    assert watch.section(watched, VOLUMES) == (None, [])


def test_a_run_that_fails_keeps_what_was_read_and_its_error(monkeypatch, out):
    monkeypatch.setattr(sources, "available", lambda device: ([Counter()], []))
    with pytest.raises(MemoryError), watch.watching(CpuDevice(), out) as watched:
        raise MemoryError
    assert watched.read["samples"] == 1


class Library:
    """The part of nvidia-ml-py that is used, for one GPU that has no utilisation figure."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, uuid):
        self.uuid, self.open = uuid, 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.uuid:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle):
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 61

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=3 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle):
        return 412_000


def test_nvml_reads_the_gpu_of_the_run_and_leaves_out_what_it_refuses():
    device = SimpleNamespace(uuid=lambda: "abc")
    library = Library("GPU-abc")
    source = sources.Nvml(device, library)
    assert source.read() == {"gpu_temperature_c": 61.0, "gpu_memory_bytes": 3 * 2**30, "gpu_power_w": 412.0}
    source.close()
    assert library.open == 0
    with pytest.raises(sources.Absent, match="Not Found"):
        sources.Nvml(device, Library("GPU-other"))


XPU_SMI = """#!{python}
import sys, time
assert sys.argv[1:4] == ["dump", "-d", "0"]
print("Timestamp, DeviceId, GPU Utilization (%), GPU Power (W), GPU Frequency (MHz), "
      "GPU Core Temperature (Celsius Degree), GPU Memory Used (MiB)")
print("06:14:46.000,    0, 12.50, 118.87, 1550,  N/A, 2048.00")
time.sleep(60)
"""


def test_xpu_smi_is_followed_and_ended(tmp_path, monkeypatch):
    """Columns as in Intel's user guide of XPU Manager; xpu-smi itself was not run on hardware."""
    command = tmp_path / "xpu-smi"
    command.write_text(XPU_SMI.format(python=sys.executable))
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    source = xpu_smi.XpuSmi(str(command))
    end = time.monotonic() + 20
    while not source.read() and time.monotonic() < end:
        time.sleep(0.02)
    assert source.read() == {
        "gpu_utilisation_percent": 12.5,
        "gpu_power_w": 118.87,
        "gpu_core_clock_mhz": 1550.0,
        "gpu_memory_bytes": 2048 * 2**20,
    }
    source.close()
    assert source._process.wait(timeout=20) is not None
    with pytest.raises(sources.Absent, match="xpu-smi"):
        xpu_smi.XpuSmi(str(tmp_path / "none"))
    for number in (128, 129):
        (tmp_path / f"renderD{number}").touch()
    monkeypatch.setattr(xpu_smi, "RENDER_NODES", tmp_path)
    with pytest.raises(sources.Absent, match="several GPUs"):
        xpu_smi.XpuSmi(str(command))


def test_this_machine_is_watched_without_asking_for_more(lines, out):
    found, absent = sources.available(CpuDevice())
    assert found[0].name == "host"
    assert len(found) + len(absent) >= 2, "RAPL is either read or missed"
    with watch.watching(CpuDevice(), out) as watched:
        sum(os.getpid() for _ in range(100_000))
    assert watched.read["summary"]["host_memory_bytes"]["max"] > 0
