"""One attempt of a fuzz: an input, the commands that read it, and the check of their outcomes."""

import contextlib
import io
import random
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from dsprune.commands.cli.main import run_command, run_explained

__all__ = ["Attempt", "Outcome", "Step", "Target", "judge", "named", "perform"]

Step = Sequence[str] | Callable[[], None]
"""The words of a command, or a call of the library that returns nothing."""

TIME_LIMIT = 60
"""Timeout of a step in seconds."""

LONGEST = 3000
"""Largest number of characters in a one-line message."""


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        step: the words of the command, or the name of the function.
        code: the exit code; None if an exception escaped.
        out: its output on stdout.
        err: its output on stderr, or the traceback of the exception.
    """

    step: str
    code: int | None
    out: str
    err: str


def _makes_sense(outcomes: Sequence[Outcome]) -> str | None:
    """Accept any outcome with exit code 0."""
    return None


@dataclass(frozen=True)
class Attempt:
    """An input and the steps that read it.

    Attributes:
        what: the input or its damage, in a line.
        steps: the steps, which run in order.
        check: returns the problem of well-formed outcomes, such as exit code 0 of an audit; or None.
        may_fail: exit codes other than 0 and 2 that are allowed, such as 1 of an audit.
    """

    what: str
    steps: Sequence[Step]
    check: Callable[[Sequence[Outcome]], str | None] = _makes_sense
    may_fail: frozenset[int] = frozenset()


def named(step: Callable[[], None], name: str) -> Step:
    """Return the step with a name for outcomes."""
    step.__name__ = name
    return step


class Target(Protocol):
    """A kind of input."""

    def attempt(self, folder: Path, rng: random.Random) -> Attempt:
        """Make an input in an empty folder."""


def perform(attempt: Attempt) -> list[Outcome]:
    """Run the steps of an attempt in this process."""
    return [_run(step) for step in attempt.steps]


def judge(attempt: Attempt, outcomes: Sequence[Outcome]) -> str | None:
    """Return the problem of the outcomes of an attempt, or None.

    A step ends with exit code 0, or with one error line on stderr and exit code 2 or a code that is allowed. Lines on
    the start of a run may come before it.
    """
    for outcome in outcomes:
        if problem := _problem(outcome, attempt.may_fail):
            return f"{outcome.step}: {problem}"
    return attempt.check(outcomes)


def _problem(outcome: Outcome, may_fail: frozenset[int]) -> str | None:
    if outcome.code == 0:
        return "a traceback on exit 0" if "Traceback" in outcome.err else None
    lines = [line for line in outcome.err.splitlines() if line.startswith("dsprune: ")]
    if outcome.code not in {2, *may_fail} or "Traceback" in outcome.err:
        return f"exit code {outcome.code}: {outcome.err}"
    if len(lines) != 1:
        return f"{len(lines)} error lines on stderr: {outcome.err}"
    if len(lines[0]) > LONGEST or not lines[0].isprintable():
        return f"a line of {len(lines[0])} characters that is no plain text: {lines[0][:LONGEST]!r}"
    return None


class _HangsError(BaseException):
    """A step takes too long. No error handler catches this error."""


def _run(step: Step) -> Outcome:
    name = step.__name__ if callable(step) else " ".join(step)
    out, err = io.StringIO(), io.StringIO()
    code: int | None = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _time_limit():
                code = run_explained(step) if callable(step) else run_command(list(step))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else None
        except (Exception, _HangsError):  # such errors are the target of a fuzz
            err.write(traceback.format_exc())
    return Outcome(name, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise _HangsError(f"no end after {TIME_LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
