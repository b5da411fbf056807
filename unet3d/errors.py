"""What goes wrong in a way that the user can mend: one line, never a traceback.

Every message says what was wrong, the value that was given, what is allowed and what to do next.
"""

from __future__ import annotations

import signal


class BenchmarkError(Exception):
    """Base of all errors reported in one line; `exit_code` is what the process returns."""

    exit_code = 1


class UserError(BenchmarkError):
    """Bad input: settings, files or a combination that cannot be run. Exit code 2."""

    exit_code = 2


class MismatchError(BenchmarkError):
    """What ran is not what was asked for, or its output disagrees with fp32: no number is reported."""

    exit_code = 3


class OutOfMemory(BenchmarkError):
    """The device or the host ran out of memory. Exit code 4."""

    exit_code = 4


class UserErrors(UserError):
    """Several bad inputs at once, one line each."""

    def __init__(self, messages: list[str]):
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


class Stopped(BaseException):
    """A signal asked the run to end; `name` is the signal's, `exit_code` what a shell expects after it."""

    def __init__(self, number: int):
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number
