import json

import pytest


@pytest.fixture
def save(tmp_path):
    """Writes a results.json's document into a folder of this name; the folder's path."""

    def write(name, doc):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text(json.dumps(doc))
        return str(tmp_path / name)

    return write
