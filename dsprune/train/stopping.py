"""Reasons to stop before the end, agreed by all ranks at a step boundary.

A rank notes a signal, a deadline, a switch file or the loss of its launcher. Once a step the ranks reduce what
they noted, on the CPU and in the background: the answer of one step is looked at after the next, so nobody
waits for it, and all ranks stop after the same step.
"""

import os
import signal
import sys
import time
from types import FrameType, TracebackType

from dsprune.ranks.collectives import DelayedMax
from dsprune.ranks.ranks import Ranks
from dsprune.train.run_folder import RunFolder
from dsprune.utils.signals import stop_exiting_on_signals
from dsprune.zero.launch import is_alive, launcher_processes

__all__ = ["EXIT_CODE", "Stops"]

EXIT_CODE = 75
"""Of a process that stopped early, EX_TEMPFAIL: run it again, and it goes on."""


REASONS = (
    "",
    "the launcher is gone",
    "dsprune stop",
    "--stop-after is over",
    "the end time of the Slurm job is near",
    "SIGUSR1",
    "SIGTERM",
)
"""What a rank can note; of several, the last of these is told."""


SIGNALS = {signal.SIGUSR1: REASONS.index("SIGUSR1"), signal.SIGTERM: REASONS.index("SIGTERM")}


EVERY = 1.0
"""Seconds between two looks at the switch file and at the launcher."""


class Stops:
    """Takes note of requests to stop. A context manager: it takes the signals over.

    Before the first step there is nothing to save, and a signal ends the process at once.

    Args:
        ranks: this process among all.
        run: its switch file counts; one that is there at the start is of yesterday, and is removed.
        margin: seconds before the end of a Slurm job at which to stop.
        stop_after: seconds from now on after which to stop; None = never.
    """

    def __init__(self, ranks: Ranks, run: RunFolder, margin: float, stop_after: float | None) -> None:
        self._ranks, self._run = ranks, run
        now = time.time()
        end = float(os.environ.get("SLURM_JOB_END_TIME", "inf"))
        self._deadlines = {
            REASONS.index("--stop-after is over"): now + stop_after
            if stop_after is not None
            else float("inf"),
            REASONS.index("the end time of the Slurm job is near"): end - margin,
        }
        self._noted = 0
        self._is_training = False
        self._looked = 0.0
        self._launcher = launcher_processes()
        self._agreement = DelayedMax(ranks)

    def __enter__(self) -> "Stops":
        if self._ranks.is_first:
            self._run.stop_file.unlink(missing_ok=True)
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The signals stay taken: the launcher sends more of them while the ranks end."""
        self._is_training = True
        stop_exiting_on_signals()

    def agreed(self) -> str | None:
        """Why to stop now, the same on every rank, or None.

        Collective: every rank must call this, once a step.
        """
        if not self._is_training:
            self._is_training = True
            stop_exiting_on_signals()
        if code := self._agreement.result():
            return REASONS[code]
        self._agreement.exchange(self._requested())
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._is_training:
            sys.exit(EXIT_CODE)
        self._noted = max(self._noted, SIGNALS[signal.Signals(number)])

    def _requested(self) -> int:
        now = time.time()
        due = [code for code, deadline in self._deadlines.items() if now >= deadline]
        if now - self._looked >= EVERY:
            self._looked = now
            if self._ranks.is_first and self._run.stop_file.exists():
                due.append(REASONS.index("dsprune stop"))
            if any(not is_alive(process) for process in self._launcher):
                due.append(REASONS.index("the launcher is gone"))
        return max([self._noted, *due])
