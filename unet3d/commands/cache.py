"""`./run_model.sh cache`: what is kept between runs, and `cache clear`, which removes it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from difflib import get_close_matches

from unet3d import caches
from unet3d.errors import BenchmarkError, UserErrors, messages_of, shown

HELP = """\
usage: ./run_model.sh cache                    show what is kept between runs: kind, size, age, path
       ./run_model.sh cache clear [KIND ...]   remove it, all or these kinds

Everything that is kept is made again when a run needs it; no result, weight or preprocessed volume is among it.
What a run under way uses is not removed: the command says so and ends with exit code 2.
The folder is unet3d in XDG_CACHE_HOME, by default in ~/.cache.

Kinds:"""
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def main(argv: Sequence[str]) -> int:
    """Show or clear the cache; returns 0.

    Raises:
        UserErrors: for a bad command line, or what could not be removed, a line each.
    """
    if "--help" in argv or "-h" in argv:
        print(HELP)
        for name, kind in caches.KINDS.items():
            print(f"  {name:<14} {kind.what}")
        return 0
    words = [word.casefold() for word in argv]
    if not words:
        _show()
        return 0
    if words[0] != "clear":
        raise UserErrors([f"cache: '{shown(argv[0])}' is unknown; use nothing to show what is kept, or clear [KIND ...]"])
    _refuse_unknown(words[1:])
    _clear(words[1:])
    return 0


def _refuse_unknown(kinds: Sequence[str]) -> None:
    problems = []
    for kind in kinds:
        if kind not in caches.KINDS:
            close = get_close_matches(kind[:40], caches.KINDS, 1)
            hint = f"did you mean {close[0]}?" if close else f"use {', '.join(caches.KINDS)}"
            problems.append(f"cache clear: '{shown(kind)}' is no kind; {hint}")
    if problems:
        raise UserErrors(problems)


def _show() -> None:
    print(f"Kept in {caches.folder()}")
    total = 0
    for name, kind in caches.KINDS.items():
        found = caches.entries(name)
        if not found:
            continue
        size = sum(entry.size for entry in found)
        # A place that others share is not ours to count.
        total += size if caches.ours(name) else 0
        print(f"\n{name}: {kind.what}, {_size(size)}")
        if not caches.ours(name):
            print(f"  {caches.place(name)}, named by {kind.variable}; cache clear leaves it alone")
            continue
        for entry in found:
            print(f"  {_size(entry.size):>9}  {_age(entry.changed):>10}  {entry.path.relative_to(caches.folder())}")
    print(f"\n{_size(total)} in all; ./run_model.sh cache clear [KIND ...] removes it" if total else "Nothing is kept")


def _clear(kinds: Sequence[str]) -> None:
    """Each kind by itself: what is in use keeps no other from being removed."""
    # Without a word: all that is ours; whoever names a place of the user's is told why it stays.
    wanted = dict.fromkeys(kinds or [name for name in caches.KINDS if caches.ours(name)])
    count, size, problems = 0, 0, []
    for kind in wanted:
        try:
            gone = caches.clear(kind)
        except BenchmarkError as error:
            problems += messages_of(error)
            continue
        count, size = count + len(gone), size + sum(entry.size for entry in gone)
    print(f"{count} {'entry' if count == 1 else 'entries'} removed, {_size(size)}")
    if problems:
        raise UserErrors(problems)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for length, name in UNITS:
        if seconds >= length:
            number = int(seconds / length)
            return f"{number} {name}{'s' if number > 1 else ''}"
    return "just now"
