"""What people publish names no home folder: this user's is written as `~`, another one's as `/home/…`.

Names below it stay, since they tell data sets and weights apart. Other paths are of the machine and stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
from typing import Any

# Folders of homes; what follows in a path is somebody's name.
_OTHERS = re.compile(r"(?<![\w./~-])(/home|/Users|/export/home|/usr/home)/(?!…)[^/\s:;,'\"]+")


def without_homes(text: str) -> str:
    """The text with every path in it that leads through a home folder written so that it tells of no home."""
    if "/" not in text:
        return text
    own = _own_homes(os.environ.get("HOME"))
    if own is not None:
        text = own.sub("~", text)
    return _OTHERS.sub(r"\1/…", text)


def without_homes_in(value: Any) -> Any:
    """The same of all text in a value that JSON holds."""
    if isinstance(value, str):
        return without_homes(value)
    if isinstance(value, dict):
        return {without_homes(key): without_homes_in(item) for key, item in value.items()}
    return [without_homes_in(item) for item in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=8)
def _own_homes(variable: str | None) -> re.Pattern[str] | None:
    """Matches this user's home folder where a path begins with it, by every name that it has; None where there is none."""
    known = [variable]
    with contextlib.suppress(KeyError):  # containers run as users that no file knows
        known.append(pwd.getpwuid(os.getuid()).pw_dir)
    homes = {name for home in known if home and home.startswith("/") for name in (home.rstrip("/"), os.path.realpath(home))}
    homes -= {"", "/"}
    if not homes:
        return None
    longest_first = "|".join(re.escape(home) for home in sorted(homes, key=len, reverse=True))
    return re.compile(rf"(?<![\w./~-])(?:{longest_first})(?![\w.-])")
