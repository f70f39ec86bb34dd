"""The ranks of a command or a script as processes, forked from one that has imported everything.

So they start quickly. As under the deepspeed launcher, if one rank fails, the others are terminated, and killed if they
do not end.
"""

import contextlib
import faulthandler
import multiprocessing.connection
import os
import re
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from dsprune.testing.pool import forkserver, settle
from dsprune.utils.ports import free_port

__all__ = ["ForkedRanks"]

GRACE = 30.0
"""Seconds for a rank to end after it was terminated."""


class ForkedRanks:
    """`dsprune ARGUMENTS` on some ranks, or `python SCRIPT ARGUMENTS`; stdout and stderr go to files in `log`.

    Args:
        arguments: arguments of the command, or of the script.
        world_size: number of ranks.
        log: folder for the files.
        last: more arguments, only for the last rank.
        script: a script to run instead of a command.
        **environment: environment variables of all ranks.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        world_size: int,
        log: Path,
        last: Sequence[str] = (),
        script: Path | None = None,
        **environment: str,
    ) -> None:
        log.mkdir(parents=True, exist_ok=True)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world_size)}
        self.log = log
        self.processes: list[BaseProcess] = []
        for rank in range(world_size):
            own = environment | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if script is not None and world_size == 1:  # as without a launcher
                own = environment
            words = [*arguments, *(last if rank == world_size - 1 else ())]
            process = forkserver().Process(
                target=_become, args=(words, own, str(log / f"{rank}.log"), script)
            )
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 300.0) -> list[int | None]:
        """Return exit codes by rank, negative for a signal; None = the rank hung and was killed."""
        deadline, hung = time.monotonic() + timeout, set()
        while running := [process.sentinel for process in self.processes if process.exitcode is None]:
            multiprocessing.connection.wait(running, max(0.0, deadline - time.monotonic()))
            if any(process.exitcode not in (None, 0) for process in self.processes):
                self.signal(signal.SIGTERM)
                deadline = min(deadline, time.monotonic() + GRACE)
                self._join(deadline)
            if time.monotonic() >= deadline:
                hung = {rank for rank, process in enumerate(self.processes) if process.exitcode is None}
                for rank in hung:  # so that its log shows where it hung
                    with (self.log / f"{rank}.log").open("a") as log:
                        log.write(f"hangs in {self.stack(rank)}\n")
                self.signal(signal.SIGKILL)
                self._join(time.monotonic() + 10)
        return [None if rank in hung else process.exitcode for rank, process in enumerate(self.processes)]

    def signal(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some running ranks; None = to all."""
        for rank, process in enumerate(self.processes):
            if process.exitcode is None and (ranks is None or rank in ranks):
                with contextlib.suppress(ProcessLookupError):  # it may end at this moment
                    os.kill(process.pid or 0, number)

    def stack(self, rank: int) -> list[str]:
        """Return the functions on the stack of a rank, the innermost first; empty if it does not answer in time."""
        path = self.log / f"{rank}.stack"
        if not path.exists():
            return []
        self.signal(signal.SIGUSR2, [rank])
        for _ in range(100):
            time.sleep(0.001)
            if text := path.read_text():
                return re.findall(r"line \d+ in (\S+)", text)
        return []

    def printed(self, rank: int = 0) -> str:
        """Return what a rank has written to stdout."""
        return (self.log / f"{rank}.out").read_text(errors="replace")

    def said(self, rank: int = 0) -> str:
        """Return what a rank has written to stdout, then what it has written to stderr."""
        return self.printed(rank) + (self.log / f"{rank}.log").read_text(errors="replace")

    def error_lines(self) -> list[str]:
        """Return the lines that dsprune itself wrote to stderr, of all ranks."""
        lines = [line for rank in range(len(self.processes)) for line in self.said(rank).splitlines()]
        return [line for line in lines if line.startswith("dsprune:")]

    def _join(self, deadline: float) -> None:
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))


def _become(arguments: list[str], environment: dict[str, str], log: str, script: Path | None) -> None:
    """Run the command or the script like a new process, and end with its exit code."""
    for descriptor, suffix in ((1, ".out"), (2, ".log")):
        file = os.open(Path(log).with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, descriptor)
    settle(**environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = Path(log).with_suffix(".stack").open("w")
    faulthandler.register(signal.SIGUSR2, file=stack, all_threads=False)

    from dsprune.commands.cli import run_command

    sys.argv = [str(script or "dsprune"), *arguments]
    code = run_command(arguments) if script is None else _run_script(script)
    sys.stdout.flush()
    os._exit(code)


def _run_script(script: Path) -> int:
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Exception:
        traceback.print_exc()
        return 1
    return 0
