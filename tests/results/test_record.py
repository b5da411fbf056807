"""What a record notes of a run."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from made_results import results

from unet3d.results import reader, record


def test_a_run_during_which_the_clock_was_set_back_ends_after_it_began_and_is_read(tmp_path, monkeypatch):
    began, readings = datetime(2026, 11, 30, 12, tzinfo=UTC), []

    class SetBack(datetime):
        @classmethod
        def now(cls, tz=None):
            readings.append(began - timedelta(hours=len(readings)))
            return readings[-1]

    monkeypatch.setattr(record, "datetime", SetBack)
    monkeypatch.setattr(record, "monotonic", lambda: time.monotonic() + 75)
    doc = results()
    (tmp_path / "results.json").write_text(json.dumps(doc))
    told = reader.read(tmp_path / "results.json")
    assert told["complete"] and told["started"] == began.isoformat()
    took = datetime.fromisoformat(told["finished"]) - began
    assert took.total_seconds() == pytest.approx(75, abs=30)
