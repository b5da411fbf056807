"""Writing of results: what closes a run is never overwritten by what the run wrote before."""

import json
import threading
from types import SimpleNamespace

from unet3d.results import document


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
