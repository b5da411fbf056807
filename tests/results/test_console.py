"""What a run prints: short for whoever watches, in full for logs and pipes."""

import io
from dataclasses import replace

import pytest
from making import record_of, settings_of

from unet3d.results import console
from unet3d.results.console import Console
from unet3d.results.facts import Dice, PeakMemory
from unet3d.results.timing import Sample, summarise

DICE = Dice({"WT": 0.9, "TC": 0.8, "ET": 0.7}, 0.8, {}, {})
FULL = "PERF_STATUS[2/3] Throughput=0.50 img/s | Latency=2000.00 ms | Total Accuracy=80.0000%"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def stats_of(seconds=2.0):
    return summarise([Sample(0.0, seconds), Sample(seconds, seconds)])


def test_a_pipe_and_the_log_get_the_full_status(tmp_path):
    stream = io.StringIO()
    out = Console(stream=stream)
    out.open_log(tmp_path / "log")
    out.status(2, 3, stats_of(), DICE)
    assert stream.getvalue().startswith(f"INFO[1/1]: {FULL}")
    assert (tmp_path / "log").read_text() == stream.getvalue()


def test_a_terminal_gets_the_short_status_and_the_log_the_full_one(tmp_path):
    stream = Terminal()
    out = Console(stream=stream)
    out.open_log(tmp_path / "log")
    out.status(2, 3, stats_of(), DICE)
    assert stream.getvalue() == "2/3 0.5 volumes/s, 2000 ms; with overhead 0.5/s; Dice 0.8000\n"
    assert (tmp_path / "log").read_text().startswith(f"INFO[1/1]: {FULL}")


@pytest.mark.parametrize("seconds", [1.23456e-4, 0.0123456, 1.23456, 123.456, 12345.6])
def test_the_short_status_fits_80_columns(seconds):
    assert len(console.short_status(10_000, 10_000, stats_of(seconds), DICE)) <= 80


def test_on_a_terminal_other_ranks_write_to_the_log_alone(tmp_path):
    stream = Terminal()
    out = Console(rank=1, size=2, stream=stream, only_status=True)
    out.open_log(tmp_path / "log")
    out.status(2, 3, stats_of(), None)
    out.info("something else")
    with out.phase("warming up"):
        pass
    assert stream.getvalue() == ""
    assert (tmp_path / "log").read_text().startswith("INFO[2/2]: PERF_STATUS[2/3]")


def test_in_a_pipe_other_ranks_print_their_status():
    stream = io.StringIO()
    Console(rank=1, size=2, stream=stream, only_status=True).status(2, 3, stats_of(), None)
    assert stream.getvalue().startswith("INFO[2/2]: PERF_STATUS[2/3]")


def test_what_was_set_to_its_default_is_not_told():
    settings = settings_of(batch_size=1, streams=2, threads=2, volume_shape="64,64,64", jit="trace")
    assert console.chosen(settings) == "Set: PLATFORM=CPU STREAMS=2 THREADS=2 WEIGHTS=random VOLUME_SHAPE=64,64,64"
    assert "2 streams" in console.headline(settings)


@pytest.mark.parametrize("verbose", ["yes", "no"])
def test_the_table_of_settings_is_in_the_log_and_printed_when_asked_for(tmp_path, verbose):
    stream = io.StringIO()
    out = Console(stream=stream)
    out.open_log(tmp_path / "log")
    settings = settings_of(verbose=verbose)
    out.introduce(settings)
    assert console.banner(settings) in (tmp_path / "log").read_text()
    assert (console.banner(settings) in stream.getvalue()) == (verbose == "yes")


@pytest.mark.parametrize(
    ("platform", "device", "told"),
    [
        ("CPU", None, "peak memory 2.00 GiB"),
        ("CUDA", 3 * 2**29, "peak memory host 2.00 GiB, device 1.50 GiB"),
        ("Max", None, "peak memory host 2.00 GiB"),
    ],
)
def test_beside_a_device_the_summary_says_whose_memory_it_is(platform, device, told):
    settings = replace(settings_of(), platform=platform)
    record = record_of(settings, memory=PeakMemory(2**31, device))
    [line] = [line for line in console.summary(record, stats_of()) if "peak memory" in line]
    assert line.endswith(told) and ("host" in line) == (platform != "CPU")


def test_a_phase_stands_in_the_log_also_where_it_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    out = Console(stream=stream)
    out.open_log(tmp_path / "log")
    with out.phase("warming up"):
        pass
    assert (tmp_path / "log").read_text() == "INFO[1/1]: warming up\n"
    assert "INFO" not in stream.getvalue() and "warming up: 0 s" in stream.getvalue()
