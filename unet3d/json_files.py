"""JSON in files: read in bounds and by the standard alone, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from unet3d import files
from unet3d.errors import UserError, shown


def read(path: Path, limit: int, what: str) -> Any:
    """What a JSON file holds. limit: most bytes it may have. what: what messages call it.

    Raises:
        UserError: when it is absent, no regular file, larger, not JSON in UTF-8, holds NaN, infinities or a key twice, or is
            nested too deep.
    """
    content = files.read_regular(path, limit, what)
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_each_key_once)
    except RecursionError:
        raise UserError(f"{what} {shown(path)}: its values are nested too deep; name another file") from None
    except ValueError as error:
        reason = str(error) if isinstance(error, _NotPlain) else "it is not JSON in UTF-8"
        raise UserError(f"{what} {shown(path)}: cannot be read, {reason}; name another file") from None


def text(value: object) -> str:
    """A value as a file holds it.

    Raises:
        ValueError: for NaN and infinities, which JSON has not.
    """
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def write(path: Path, value: object) -> None:
    """Write a value as `text` gives it.

    Raises:
        UserError: when the folder cannot be written to or the disk is full.
    """
    files.write_atomically(path, text(value))


class _NotPlain(ValueError):
    """JSON that Python reads and the standard has not."""


def _no_constant(name: str) -> NoReturn:
    raise _NotPlain(f"it holds {name}, which is not JSON")


def _each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _NotPlain(f"the key '{shown(twice, 60)}' is there twice")
    return mapping
