"""results.json read back, and `report.html` drawn from it: a run on one page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from unet3d.errors import UserError
from unet3d.files import write_atomically
from unet3d.results.schema import Results

FILE = "report.html"


def read(path: Path) -> Results:
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
        version = doc.get("schema_version") if isinstance(doc, dict) else None
        raise UserError(
            f"{path}: is not a results.json of this benchmark (schema_version is {version}, expected "
            f"{SCHEMA_VERSION}); name the OUTPUT_DIR of a run"
        )
    return cast(Results, doc)


def write(doc: Results | Mapping[str, Any], folder: Path) -> Path:
    """Draw the report of a results.json's document into `folder`, which may hold `slices.npz`; returns the file.

    Raises:
        UserError: when the folder cannot be written to.
    """
    path = folder / FILE
    write_atomically(path, page(cast(Results, doc), folder))
    return path


def page(doc: Results, folder: Path) -> str:
    """The report as HTML. folder: where `slices.npz` may be."""
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
    figures = {name: Markup(svg) for name, svg in context["figures"].items()}
    return environment.get_template("template.html").render({**context, "figures": figures})
