"""Command lines of the verbs that take more than settings."""

from __future__ import annotations

import argparse
from typing import NoReturn

from unet3d.errors import UserError, shown


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are one line like all others, not a usage text; the last word of `prog` is the verb."""

    def error(self, message: str) -> NoReturn:
        """What argparse calls for a bad command line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.prog.split()[-1]}: {shown(message, 400)}; see {self.prog} --help")
