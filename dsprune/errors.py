"""The errors that end a command on purpose, and their exit codes."""

EXIT_STOPPED = 75
"""Exit code after a StoppedError, EX_TEMPFAIL: run the same command again to resume."""

EXIT_UNFORESEEN = 70
"""Exit code after an unexpected error, EX_SOFTWARE; the message names the file with the traceback."""


class UserError(Exception):
    """Invalid input (exit code 2). The message is one line: the field or file, its value and the way out."""


class CheckFailedError(Exception):
    """A requested check failed (exit code 1). The message names the first tensor or file that fails."""


class RunFailedError(Exception):
    """A run cannot continue (exit code 1). The message gives the reason and the way out."""


class StoppedError(Exception):
    """A run stopped on request with a checkpoint; the same command resumes it (exit code 75)."""
