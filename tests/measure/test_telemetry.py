"""Telemetry: what the counters say, what is not there, and that it stays out of the measured calls."""

import math
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
from unet3d.results.facts import Told
from unet3d.results.timing import Sample


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

    name, least_window_s = "RAPL", 0.015

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


SAMPLES = [Sample(0.0, 1.0)] * 4


class Made:
    """A source that reads what it is told, at the times of a clock that is told too."""

    def __init__(self, clock, name="NVML", least_window_s=1.5, joules=None, **metrics):
        self.clock, self.name, self.least_window_s, self._joules, self._metrics = clock, name, least_window_s, joules, metrics

    def read(self):
        return {metric: value(self.clock.now) for metric, value in self._metrics.items()}

    def joules(self):
        return self._joules and self._joules(self.clock.now)

    def close(self):
        pass


def watched_at(monkeypatch, times, **source):
    """What is read of a source at these seconds after the begin, by its own functions of the time."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(watch, "perf_counter", lambda: clock.now)
    sampler = watch.Sampler([Made(clock, **source)], period=3600)
    sampler.start()
    for now in times[:-1]:
        clock.now = now
        sampler._sample()
    clock.now = times[-1]
    return watch.Watched(sampler.stop())


# A counter that moves every 0.1 s, at 500 W; the gauge is its average of a second, at the begin of an idle GPU.
GPU = {
    "joules": lambda now: 1000 + 500 * math.floor(10 * now) / 10,
    "gpu_power_w": lambda now: 100 + 400 * min(1, now),
    "gpu_utilisation_percent": lambda now: 90.0,
    "gpu_temperature_c": lambda now: 50.0,
}


def figures_of(told):
    return {key: value for key, value, _ in told.figures}


@pytest.mark.parametrize("end", [2.3, 10.04, 60.0])
def test_power_is_joules_over_the_seconds_of_the_window(monkeypatch, end):
    watched = watched_at(monkeypatch, [*map(float, range(1, math.ceil(end))), end], **GPU)
    telemetry, told = watch.section(watched, SAMPLES)
    figures, joules = figures_of(told), telemetry["energy"]["joules"]["NVML"]
    assert figures["gpu_power"] * end == pytest.approx(joules)
    assert figures["energy_per_volume_gpu"] == pytest.approx(joules / 4)
    # A window ends between two steps of the counter.
    assert figures["gpu_power"] == pytest.approx(500, rel=0.1 / end)
    spread = telemetry["summary"]["gpu_power_w"]
    assert spread["min"] <= spread["mean"] <= spread["max"] and not told.warnings


def test_power_of_a_burst_lies_between_its_readings(monkeypatch):
    """As results.json must have it, also where the burst is over before the counter's least window has passed."""
    energy = {"joules": lambda now: 100 * min(max(now - 1, 0), 1)}
    telemetry, told = watch.section(watched_at(monkeypatch, [1.0, 2.0, 3.0, 3.4], **energy), SAMPLES)
    spread = telemetry["summary"]["gpu_power_w"]
    assert figures_of(told)["gpu_power"] == spread["mean"] == pytest.approx(100 / 3.4)
    assert spread["min"] <= spread["mean"] <= spread["max"]
    assert None not in telemetry["series"]["gpu_power_w"]


def test_a_mean_weighs_readings_by_their_seconds(monkeypatch):
    source = {"gpu_utilisation_percent": lambda now: 90.0 if now <= 2 else 0.0}
    _, told = watch.section(watched_at(monkeypatch, [1.0, 2.0, 2.1], **source), SAMPLES)
    assert figures_of(told)["gpu_utilisation"] == pytest.approx(90 * 2 / 2.1)


def test_a_window_that_is_too_short_for_the_counter_has_no_power_and_says_so(monkeypatch):
    """The ten calls of a default run on an H100."""
    telemetry, told = watch.section(watched_at(monkeypatch, [0.095], **GPU), [Sample(0.0, 0.0095)] * 10)
    assert telemetry["energy"] is None and not told.figures
    assert set(telemetry["series"]) == {"time_s", "gpu_temperature_c"} == {*telemetry["summary"], "time_s"}
    [warning] = told.warnings
    assert warning.name == "short-window" and warning.remedy == "Raise NUM_ITERATIONS to about 190."
    assert "0.095 s" in warning.message and "1.5 s" in warning.message
    _, told = watch.section(watched_at(monkeypatch, [1.0, 190 * 0.0095], **GPU), [Sample(0.0, 0.0095)] * 190)
    assert figures_of(told)["gpu_power"] and not told.warnings


def test_rapl_moves_every_millisecond_and_tells_shorter_windows(monkeypatch, tmp_path):
    domain(tmp_path, "0", "package-0", 100)
    least = sources.Rapl(tmp_path).least_window_s
    energy = {"name": "RAPL", "least_window_s": least, "joules": lambda now: 40 * now}
    _, told = watch.section(watched_at(monkeypatch, [0.095], **energy), SAMPLES)
    assert figures_of(told) == {"cpu_power": pytest.approx(40), "energy_per_volume_cpu": pytest.approx(0.95)}
    assert not told.warnings


def test_a_counter_that_fails_at_the_end_tells_no_energy(monkeypatch):
    def failing(now):
        return 500 * now if now < 4 else 1 / 0

    telemetry, told = watch.section(watched_at(monkeypatch, [1.0, 2.0, 3.0, 4.0], **{**GPU, "joules": failing}), SAMPLES)
    assert telemetry["energy"] is None and "energy_per_volume_gpu" not in figures_of(told)
    assert figures_of(told)["gpu_power"] == pytest.approx(500)


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
    telemetry, told = watch.section(watched, SAMPLES)
    energy, figures = telemetry["energy"], figures_of(told)
    assert energy["joules_per_volume"]["RAPL"] == pytest.approx(energy["joules"]["RAPL"] / 4)
    assert figures["energy_per_volume_cpu"] == energy["joules_per_volume"]["RAPL"]
    assert not lines

    monkeypatch.setattr(sources, "available", lambda device: ([sources.Host()], ["CPU power (none)", "clocks"]))
    with watch.watching(CpuDevice(), out) as watched:
        time.sleep(0.05)
    telemetry, told = watch.section(watched, SAMPLES)
    assert telemetry["energy"] is None
    assert not any("energy" in key for key in figures_of(told))
    assert telemetry["absent"] == ["CPU power (none)", "clocks"]
    assert "".join(lines).count("CPU power (none)") == 1


def test_several_ranks_share_one_machine_so_no_rank_claims_its_energy(monkeypatch):
    sampler = watch.Sampler([Counter()], period=10)
    sampler.start()
    telemetry, _ = watch.section(watch.Watched(sampler.stop()), SAMPLES, ranks=2)
    assert telemetry["energy"] is None


def test_several_ranks_are_not_told_by_the_process_and_the_gpu_of_one(monkeypatch):
    machine = {"cpu_utilisation_percent": lambda now: 20.0, "process_memory_bytes": lambda now: 5.0}
    watched = watched_at(monkeypatch, [1.0, 2.0], **GPU, **machine)
    telemetry, told = watch.section(watched, SAMPLES, ranks=2)
    assert figures_of(told) == {"cpu_utilisation": 20.0}
    assert set(telemetry["series"]) == {"time_s", "cpu_utilisation_percent"} == {"time_s", *telemetry["summary"]}
    short = watched_at(monkeypatch, [0.1], **GPU)
    assert watch.section(short, SAMPLES, ranks=2)[1] == Told([], [])


def test_off_means_nothing_runs(monkeypatch, out):
    monkeypatch.setattr(sources, "available", lambda device: pytest.fail("telemetry is off"))
    with watch.watching(CpuDevice(), out, enabled=False) as watched:
        pass
    assert watch.section(watched, SAMPLES) == (None, Told())


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
