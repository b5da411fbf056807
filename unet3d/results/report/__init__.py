"""`report.html`, drawn from a results.json: a run on one page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from unet3d.files import write_atomically
from unet3d.results.reader import read as read
from unet3d.results.schema import Results

if TYPE_CHECKING:
    import jinja2

FILE = "report.html"


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
    from markupsafe import Markup

    from unet3d.results.report import content

    context = content.context(doc, folder)
    figures = {name: Markup(svg) for name, svg in context["figures"].items()}
    return templates().get_template("template.html").render({**context, "figures": figures})


def templates(*folders: Path) -> jinja2.Environment:
    """The templates of these folders and of this one: what is put into them is escaped, and what they lack is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
