"""Whether a run with these flags is possible on this machine, told without starting it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from unet3d.config import parse
from unet3d.config.parse import Given
from unet3d.engines import registry
from unet3d.errors import BenchmarkError, UserErrors
from unet3d.planning import resolve
from unet3d.planning.resolve import Settings


def complete(words: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, Given], Settings]:
    """The settings that flags and variables give, as the user gave them and with all that the machine decides.

    Raises:
        UserErrors: a line for each reason why they cannot run here.
    """
    from unet3d.measure import run

    given, problems = parse.parse(words, environ)
    problems += resolve.impossible(given)
    if problems:
        raise UserErrors(problems)
    settings = resolve.complete(given)
    registry.check(run.request(settings))
    return given, settings


def reasons(error: BenchmarkError) -> list[str]:
    """The lines of an error."""
    return error.messages if isinstance(error, UserErrors) else [str(error)]
