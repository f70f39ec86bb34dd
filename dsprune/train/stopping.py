"""Requests to stop early, which all ranks obey after the same step.

A request is a signal, a deadline, a stop file or the loss of the launcher. After every step the ranks reduce their
requests, on the CPU and in the background. The result is read after the next step, so no rank waits for it, and all
ranks stop after the same step.
"""

import math
import os
import signal
import sys
import time
from enum import IntEnum
from types import FrameType

from dsprune.errors import EXIT_STOPPED
from dsprune.ranks.collectives import DelayedMax
from dsprune.ranks.group import current_ranks
from dsprune.train.run_folder import RunFolder
from dsprune.utils.signals import END_SIGNALS, is_left_ignored, stop_exiting_on_signals
from dsprune.zero.launch import is_alive, launcher_processes

__all__ = ["StopRequests"]

POLL_INTERVAL = 1.0
"""Seconds between two checks of the stop file and of the launcher."""


class Reason(IntEnum):
    """A reason to stop. Of several reasons, the largest is reported."""

    NONE = 0
    LAUNCHER_GONE = 1
    STOP_FILE = 2
    STOP_AFTER = 3
    SLURM_END = 4
    SIGUSR1 = 5
    SIGXCPU = 6
    SIGHUP = 7
    SIGINT = 8
    SIGTERM = 9


MESSAGES = {
    Reason.LAUNCHER_GONE: "the launcher is gone",
    Reason.STOP_FILE: "dsprune stop",
    Reason.STOP_AFTER: "--stop-after is over",
    Reason.SLURM_END: "the end time of the Slurm job is near",
    Reason.SIGUSR1: "SIGUSR1",
    Reason.SIGXCPU: "SIGXCPU, the limit of CPU time",
    Reason.SIGHUP: "SIGHUP, the terminal is gone",
    Reason.SIGINT: "Ctrl-C",
    Reason.SIGTERM: "SIGTERM",
}

SIGNALS = {number: Reason[number.name] for number in (*END_SIGNALS, signal.SIGUSR1, signal.SIGINT)}


class StopRequests:
    """Collects requests to stop. As a context manager it handles `SIGNALS`.

    Before the first step there is nothing to save, so a signal ends the process at once.

    Args:
        run: the folder in which a stop file may appear; an old stop file is removed at the start.
        margin: seconds before the end of a Slurm job at which to stop.
        stop_after: seconds from now at which to stop; None = never.
    """

    def __init__(self, run: RunFolder, margin: float, stop_after: float | None) -> None:
        self._run, self._is_first = run, current_ranks().is_first
        # The clock may be set during the run, so time is counted from here.
        started = time.monotonic()
        self._deadlines = {Reason.SLURM_END: started + _slurm_left() - margin}
        if stop_after is not None:
            self._deadlines[Reason.STOP_AFTER] = started + stop_after
        self._signalled = Reason.NONE
        self._is_training = False
        self._last_poll = -POLL_INTERVAL
        self._launcher = launcher_processes()
        self._agreement = DelayedMax()

    def __enter__(self) -> "StopRequests":
        if self._is_first:
            self._run.stop_file.unlink(missing_ok=True)
        for number in SIGNALS:
            if not is_left_ignored(number):
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Ignore further signals: the launcher sends more of them while the ranks end."""
        self._begin_training()

    def agreed(self) -> str | None:
        """Return the reason to stop now, the same on every rank; None to continue.

        Collective: every rank must call this, once a step.
        """
        self._begin_training()
        if result := self._agreement.result():
            return MESSAGES[Reason(result)]
        self._agreement.exchange(self._requested())
        return None

    def _begin_training(self) -> None:
        """Turn later signals into requests to stop, which do not end the process."""
        if not self._is_training:
            self._is_training = True
            stop_exiting_on_signals()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        reason = SIGNALS[signal.Signals(number)]
        if reason is Reason.SIGINT and (not self._is_training or self._signalled is Reason.SIGINT):
            raise KeyboardInterrupt  # nothing to save yet, or the second Ctrl-C
        if not self._is_training:
            sys.exit(EXIT_STOPPED)
        self._signalled = max(self._signalled, reason)

    def _requested(self) -> Reason:
        """Return this rank's reason to stop."""
        now = time.monotonic()
        reasons = [reason for reason, deadline in self._deadlines.items() if now >= deadline]
        if now - self._last_poll >= POLL_INTERVAL:
            self._last_poll = now
            if self._is_first and self._run.stop_file.exists():
                reasons.append(Reason.STOP_FILE)
            if any(not is_alive(process) for process in self._launcher):
                reasons.append(Reason.LAUNCHER_GONE)
        return max([self._signalled, *reasons])


def _slurm_left() -> float:
    """Return the seconds until the end time of the Slurm job; infinite without a job or an end time.

    The environment may still hold the time of an ended job, in whose shell this process was started.
    """
    try:
        left = float(os.environ.get("SLURM_JOB_END_TIME", "inf")) - time.time()
    except ValueError:
        return math.inf
    return left if left > 0 else math.inf
