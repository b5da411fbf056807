"""Writing of results: what closes a run is never overwritten by what the run wrote before."""

import json
import threading
from types import SimpleNamespace

import pytest
import yaml
from made_results import results
from making import record_of, settings_of

from unet3d.commands.compare import machines, runs
from unet3d.results import document
from unet3d.results.timing import Sample


def test_a_write_in_progress_does_not_undo_the_final_one(tmp_path, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def slow(record):
        doc = {"incomplete_reason": record.incomplete_reason}
        if record.incomplete_reason == "still running":
            began.set()
            assert go_on.wait(10)
        return doc

    monkeypatch.setattr(document, "document", slow)
    monkeypatch.setattr(document, "to_yaml", json.dumps)
    record = SimpleNamespace(incomplete_reason="still running")
    measuring = threading.Thread(target=document.write, args=(record, tmp_path))
    measuring.start()
    assert began.wait(10)
    record.incomplete_reason = "stopped by SIGTERM"
    threading.Timer(0.2, go_on.set).start()
    document.write(record, tmp_path)
    measuring.join()
    assert json.loads((tmp_path / "results.json").read_text())["incomplete_reason"] == "stopped by SIGTERM"


def test_an_interrupted_run_of_several_ranks_is_labelled_with_those_that_its_throughput_is_of():
    """Nobody has pooled them: there is no list of ranks."""
    record = record_of(settings_of(num_iterations=10), samples=[Sample(0.0, 1.0, rank=rank) for rank in (0, 3, 7)])
    record.finish("stopped by SIGINT")
    doc = document.document(record)
    assert doc["ranks"] == [] and doc["statistics"]["throughput"] == pytest.approx(3)
    assert yaml.safe_load(document.to_yaml(doc))["run"]["ranks"] == 8
    assert runs.facts(doc)["ranks.count"] == "8" and machines.of(doc).devices == 8


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_complete_run_is_labelled_with_its_ranks(ranks):
    assert document.labels(results([1.0] * 4, ranks=ranks))["ranks"] == ranks
