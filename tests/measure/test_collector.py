"""PERF_STATUS lines: as many as are asked for, evenly spread, whatever number is asked for."""

import pytest
from making import record_of, settings_of

from unet3d.measure.collector import collecting, due
from unet3d.planning.group import SingleProcess
from unet3d.results.console import Console
from unet3d.results.timing import Sample


@pytest.mark.parametrize("planned", [1, 2, 3, 7, 10, 64, 100])
def test_lines_are_evenly_spread_and_the_last_call_has_one(planned):
    for prints in range(1, planned + 1):
        calls = [done for done in range(1, planned + 1) if due(done, planned, prints)]
        assert calls == sorted({round(planned * line / prints) for line in range(1, prints + 1)})
        assert len(calls) == prints and calls[-1] == planned


def test_calls_beyond_the_plan_have_lines_as_often():
    assert [done for done in range(101, 131) if due(done, 100, 10)] == [110, 120, 130]


@pytest.mark.timeout(60)  # a set of a billion numbers takes minutes and 60 GB
def test_no_number_of_lines_takes_time_or_memory(tmp_path, capsys):
    settings = settings_of(status_prints=999999999, num_iterations=999999999, output_dir=tmp_path)
    record = record_of(settings, planned_calls=settings.num_iterations)
    with collecting(record, Console(), SingleProcess()) as keep:
        for number in range(3):
            keep(Sample(float(number), 0.5))
    assert "PERF_STATUS[3/999999999]" in capsys.readouterr().out
