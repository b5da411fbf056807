"""mkdocs' hook: pages from documents beside docs/, and links that leave docs/.

Documents link to each other as files of the repository do, so that they can be read there as well. On the site, documents of
the repository's root are pages, and any other file that is linked to lies in files/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's documents as pages, and the files that any document links to."""
    for name, page in PAGES.items():
        if (ROOT / name).is_file():
            files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    linked = {target for file in list(files.documentation_pages()) for target in _outside(file.src_uri, file.content_string)}
    for target in sorted(linked):
        files.append(File.generated(config, f"files/{target}", content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's text with links to where each document is on the site."""
    return LINK.sub(lambda match: match[1] + _on_site(page.file.src_uri, match[2]), markdown)


def _place(page: str, link: str) -> str:
    """What a link of a page names, from the repository's root."""
    names = {uri: name for name, uri in PAGES.items()}
    return posixpath.normpath(link if page in names else f"docs/{link}")


def _on_site(page: str, link: str) -> str:
    place = _place(page, link)
    if place in PAGES:
        return PAGES[place]
    return place.removeprefix("docs/") if place.startswith("docs/") else f"files/{place}"


def _outside(page: str, text: str) -> set[str]:
    places = {_place(page, link) for _, link in LINK.findall(text)}
    outside = {place for place in places if not place.startswith("docs/") and place not in PAGES}
    for place in outside:
        if not (ROOT / place).is_file():
            raise PluginError(f"{page}: {place} is linked to, but is no file")
    return outside
