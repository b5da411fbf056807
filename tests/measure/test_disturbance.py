"""A run says what others did to its CPUs: by counters that are put in for this machine's, which others may use."""

import json
from dataclasses import replace

import making
import pytest
from made_cpus import BusyCpus

from unet3d import cli
from unet3d.commands.sweep import tables
from unet3d.devices import cpu_time
from unet3d.devices.cpu_time import Disturbance
from unet3d.results import advice

QUIET = Disturbance(
    window_s=10, cpus=4, own_cpu_s=30, others_cpu_s=0.4, others_share=0.01, stolen_share=0, throttled_times=0, throttled_s=0
)
BUSY = replace(QUIET, others_cpu_s=20, others_share=0.5)


def names(seen, **settings):
    return [warning.name for warning in advice.disturbed(seen, making.settings_of(**settings))]


def test_others_are_told_where_they_cost_time():
    assert names(QUIET) == []
    assert names(BUSY) == ["disturbed"]
    # Two steps of the counters in a window of 0.1 s are a large share, and nothing.
    assert names(replace(BUSY, window_s=0.1, others_cpu_s=0.02)) == []
    [warning] = advice.disturbed(replace(BUSY, stolen_share=0.3), making.settings_of())
    assert "other work had 50% of its 4 CPUs, 30% taken by the hypervisor" in warning.message


def test_beside_a_gpu_the_cpus_may_be_shared():
    on_gpu = replace(making.settings_of(), platform="CUDA")
    assert list(advice.disturbed(BUSY, on_gpu)) == []
    assert list(advice.disturbed(replace(BUSY, others_share=0.8), on_gpu))


def test_a_cpu_limit_that_was_met_is_told():
    [warning] = advice.disturbed(replace(QUIET, throttled_times=12, throttled_s=3.25), making.settings_of())
    assert warning.name == "throttled" and "12 times" in warning.message and "3.2 s" in warning.message
    assert "docker run --cpus" in warning.remedy


@pytest.mark.timeout(300)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_run_beside_other_work_says_so(monkeypatch, tmp_path, capsys, share):
    monkeypatch.setattr(cpu_time, "read", BusyCpus(share).read)
    monkeypatch.setattr(advice, "LOOK_S", 0.1)
    settings = {"PLATFORM": "CPU", "PRECISION": "fp32", "JIT": "none", "VOLUME_SHAPE": "64,64,64", "NUM_ITERATIONS": "2"}
    for name, value in {**settings, "WARM_UP": "0", "WEIGHTS": "random", "OUTPUT_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert cli.main([]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    told = {warning["name"] for warning in results["warnings"]} & {"disturbed", "other-load"}
    assert told == ({"disturbed", "other-load"} if share else set())
    assert results["disturbance"]["others_share"] == pytest.approx(share, abs=0.01)
    assert results["disturbance"]["own_cpu_s"] > 0
    assert tables.others_cpu_share(results) == results["disturbance"]["others_share"]
    page, output = (tmp_path / "report.html").read_text(), capsys.readouterr().out
    assert ("disturbed" in page) == ("WARNING[disturbed]" in output) == bool(share)
