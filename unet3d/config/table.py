"""The table of settings, for `--help` and for the README."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping

from unet3d.config.settings import SETTINGS
from unet3d.progress import COLUMNS

README_BEGIN = "<!-- settings: written by python -m unet3d.config.table -->"
README_END = "<!-- end of settings -->"


def markdown() -> str:
    """The README's table, one row a setting."""
    lines = ["| Flag | Variable | Values | Default | Meaning |", "| --- | --- | --- | --- | --- |"]
    for setting in SETTINGS:
        cells = (f"`{setting.flag}`", f"`{setting.variable}`", setting.values, setting.shown_default, setting.help)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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


def refresh_readme(text: str) -> str:
    """README text with its table of settings replaced by the declared one."""
    before, _, rest = text.partition(README_BEGIN)
    _, _, after = rest.partition(README_END)
    return f"{before}{README_BEGIN}\n{markdown()}\n{README_END}{after}"


if __name__ == "__main__":
    from pathlib import Path

    readme = Path(__file__).parents[2] / "README.md"
    readme.write_text(refresh_readme(readme.read_text(encoding="utf-8")), encoding="utf-8")
