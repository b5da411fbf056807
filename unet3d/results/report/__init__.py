"""`report.html`: a run on one page that needs no network, and `./run_model.sh report` which draws it anew."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet3d.errors import UserError
from unet3d.files import write_atomically

FILE = "report.html"
DESCRIPTION = f"Draw {FILE} of a finished run anew from its results.json. At the end of a run it is drawn by itself."


def main(argv: Sequence[str]) -> int:
    """Draw the report of the folder that `argv` names; returns 0.

    Raises:
        UserError: when there is no results.json of this benchmark, or the folder cannot be written to.
    """
    parser = argparse.ArgumentParser(prog="./run_model.sh report", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of a run, or a results.json")
    try:
        given = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong
        return int(stop.code or 0)
    path = given.folder / "results.json" if given.folder.is_dir() else given.folder
    print(write(read(path), path.parent))
    return 0


def read(path: Path) -> dict[str, Any]:
    """The document of a results.json.

    Raises:
        UserError: when it is absent, broken, or not of this benchmark's schema_version.
    """
    from unet3d.results.document import SCHEMA_VERSION

    try:
        doc = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the OUTPUT_DIR of a run") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; name the OUTPUT_DIR of a run") from None
    if not isinstance(doc, dict) or doc.get("schema_version") != SCHEMA_VERSION or "samples" not in doc:
        found = doc.get("schema_version") if isinstance(doc, dict) else None
        raise UserError(
            f"{path}: is not a results.json of this benchmark (schema_version is {found}, expected "
            f"{SCHEMA_VERSION}); name the OUTPUT_DIR of a run"
        )
    return doc


def write(doc: Mapping[str, Any], folder: Path) -> Path:
    """Draw the report of a results.json's document into `folder`, which may hold `slices.npz`; returns the file.

    Raises:
        UserError: when the folder cannot be written to.
    """
    path = folder / FILE
    write_atomically(path, page(doc, folder))
    return path


def page(doc: Mapping[str, Any], folder: Path) -> str:
    """The report as HTML."""
    import jinja2
    from markupsafe import Markup

    from unet3d.results.report import content

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = content.context(doc, folder)
    context["figures"] = {name: Markup(svg) for name, svg in context["figures"].items()}
    return environment.get_template("template.html").render(**context)
