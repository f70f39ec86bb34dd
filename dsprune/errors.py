"""The two ways a command ends badly on purpose."""


class UserError(Exception):
    """Bad input: one line that names the field or file, its value and the way out (exit code 2)."""


class CheckFailedError(Exception):
    """A check that the user asked for did not hold; the message names the first offender (exit code 1)."""
