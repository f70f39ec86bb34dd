"""The ranks of a command, forked from a process that has imported everything: a start takes a moment.

What the deepspeed launcher does is done here too: when one rank fails, the others are told to end, and
killed if they do not.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

__all__ = ["Ranks", "prepare"]

GRACE = 30.0
"""Seconds that a rank has to end after it was told to."""

_fork = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Import everything once, for all ranks to come."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _fork.set_forkserver_preload(["scripts.soaking.imports"])


class Ranks:
    """`dsprune ARGUMENTS` on some ranks, whose stdout and stderr go to `log`, one file a rank.

    Args:
        arguments: of the command.
        world_size: number of ranks.
        log: folder for what they print.
        last: more arguments, for the last rank alone.
        **environment: variables of theirs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        world_size: int,
        log: Path,
        last: Sequence[str] = (),
        **environment: str,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log.mkdir(parents=True, exist_ok=True)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
        self.log = log
        self.processes: list[BaseProcess] = []
        for rank in range(world_size):
            own = environment | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            words = [*arguments, *(last if rank == world_size - 1 else ())]
            process = _fork.Process(target=_become, args=(words, own, str(log / f"{rank}.log")))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 300.0) -> list[int | None]:
        """Exit codes by rank, negative for a signal; None is a rank that hung and was killed here."""
        deadline, hung = time.monotonic() + timeout, set()
        while any(process.exitcode is None for process in self.processes):
            time.sleep(0.01)
            if any(process.exitcode not in (None, 0) for process in self.processes):
                self.signal(signal.SIGTERM)
                deadline = min(deadline, time.monotonic() + GRACE)
                self._join(deadline)
            if time.monotonic() >= deadline:
                hung = {rank for rank, process in enumerate(self.processes) if process.exitcode is None}
                for rank in hung:  # where it hung belongs into its log
                    with (self.log / f"{rank}.log").open("a") as log:
                        log.write(f"hangs in {self.whereabouts(rank)}\n")
                self.signal(signal.SIGKILL)
                self._join(time.monotonic() + 10)
        return [None if rank in hung else process.exitcode for rank, process in enumerate(self.processes)]

    def signal(self, number: signal.Signals, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some ranks that live; None = to all."""
        for rank, process in enumerate(self.processes):
            if process.exitcode is None and (ranks is None or rank in ranks):
                with contextlib.suppress(ProcessLookupError):  # it may end just now
                    os.kill(process.pid or 0, number)

    def whereabouts(self, rank: int) -> list[str]:
        """The functions that a rank is in, the innermost first; empty when it does not tell in time."""
        path = self.log / f"{rank}.stack"
        if not path.exists():
            return []
        self.signal(signal.SIGUSR2, [rank])
        for _ in range(20):
            time.sleep(0.001)
            if text := path.read_text():
                return re.findall(r"line \d+ in (\S+)", text)
        return []

    def said(self, rank: int = 0) -> str:
        """What a rank has printed."""
        return (self.log / f"{rank}.log").read_text(errors="replace")

    def complaints(self) -> list[str]:
        """What dsprune itself says on stderr, of all ranks."""
        lines = [line for rank in range(len(self.processes)) for line in self.said(rank).splitlines()]
        return [line for line in lines if line.startswith("dsprune:")]

    def _join(self, deadline: float) -> None:
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))


def _become(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Be a fresh process that runs the command."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stack = Path(log).with_suffix(".stack").open("w")
    faulthandler.register(signal.SIGUSR2, file=stack, all_threads=False)

    from dsprune.commands.cli import run_command

    os._exit(run_command(arguments))
