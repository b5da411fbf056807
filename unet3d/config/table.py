"""The table of settings, for `--help`, the README and docs/settings.md."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping

from unet3d.config.settings import BY_NAME, SETTINGS
from unet3d.progress import COLUMNS

BEGIN = "<!-- settings: written by python -m unet3d.config.table -->"
END = "<!-- end of settings -->"
# What people set; the README shows these alone.
USUAL = (
    "platform",
    "precision",
    "engine",
    "batch_size",
    "num_iterations",
    "streams",
    "dummy",
    "dataset_dir",
    "weights",
    "output_dir",
)


def usual() -> str:
    """The README's table: the settings in USUAL, a row for each variable."""
    lines = ["| Variable | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
    for setting in (BY_NAME[name] for name in USUAL):
        lines.append(f"| `{setting.variable}` | {setting.values} | {setting.shown_default} | {setting.help} |")
    return "\n".join(lines)


def complete() -> str:
    """The table of docs/settings.md: every setting under its group's heading, a row for each."""
    lines = []
    for group in dict.fromkeys(setting.group for setting in SETTINGS):
        lines += [f"## {group}", "", "| Flag | Variable | Values | Default | Meaning |", "| --- | --- | --- | --- | --- |"]
        for setting in (member for member in SETTINGS if member.group == group):
            cells = (f"`{setting.flag}`", f"`{setting.variable}`", setting.values, setting.shown_default, setting.help)
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


# Documents, from the repository's root, and what stands between their marks.
DOCUMENTS = {"README.md": usual, "docs/settings.md": complete}


def help_text(
    program: str, names: Collection[str] | None = None, verbs: Mapping[str, str] | None = None, width: int = COLUMNS
) -> str:
    """What `--help` prints in lines of at most `width` characters, of all settings or of those named.

    verbs: what each does, by name; they come first.
    """
    settings = [setting for setting in SETTINGS if names is None or setting.name in names]
    lines = ["3D U-Net inference benchmark: nnU-Net's BraTS 2019 network on volumes of [4, 224, 224, 160].", ""]
    lines += [f"usage: {program} [--flag value …]   or   VARIABLE=value … {program}"]
    if verbs:
        lines += [f"       {program} VERB …", "", "Verbs, as the first argument; each has its own --help:"]
        lines += [f"  {name:<13}{summary}" for name, summary in verbs.items()]
        lines += [f"  {'--version':<13}print the version"]
    lines += ["", "Settings. A flag wins over its environment variable. Values are not case-sensitive."]
    for group in dict.fromkeys(setting.group for setting in settings):
        lines += ["", f"{group}:"]
        for setting in (member for member in settings if member.group == group):
            lines.append(f"  {setting.flag}, {setting.variable}: {setting.values}")
            lines.append(f"      {setting.help} (default: {setting.shown_default})")
    return "\n".join(part for line in lines for part in _wrapped(line, width))


def _wrapped(line: str, width: int) -> list[str]:
    """The line in parts that fit, further ones indented as the last column is, or one step more than the line."""
    _, gap, rest = line.strip().partition("   ")
    indent = len(line) - len(rest.lstrip()) if gap and line.startswith(" ") else len(line) - len(line.lstrip()) + 2
    return textwrap.wrap(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False) or [""]


def refresh(text: str, table: str) -> str:
    """A document's text with what stands between its marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


if __name__ == "__main__":
    from pathlib import Path

    for name, made in DOCUMENTS.items():
        document = Path(__file__).parents[2] / name
        document.write_text(refresh(document.read_text(encoding="utf-8"), made()), encoding="utf-8")
