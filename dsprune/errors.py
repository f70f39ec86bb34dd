"""The ways a command ends other than well, on purpose."""

EXIT_STOPPED = 75
"""Exit code after a StoppedError, EX_TEMPFAIL: run the same command again to resume."""


class UserError(Exception):
    """Bad input: one line that names the field or file, its value and the way out (exit code 2)."""


class CheckFailedError(Exception):
    """A check that the user asked for did not hold; the message names the first offender (exit code 1)."""


class RunFailedError(Exception):
    """A run cannot go on; the message says why, and what to do (exit code 1)."""


class StoppedError(Exception):
    """A run was asked to stop and did, with a checkpoint: the same command goes on (exit code 75)."""
