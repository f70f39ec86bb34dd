"""Gloo ranks for a test module: the processes start once, then run the functions that they receive."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from dsprune.ranks.collectives import Comm
from dsprune.testing.commands import environment

__all__ = ["RankFailedError", "RankPool", "forkserver", "settle"]

PRELOAD = "dsprune.testing.preload"
TIMEOUT = timedelta(seconds=180)

HUNG = "gave no answer in time"


def forkserver() -> ForkServerContext:
    """Return the context of processes that are forked from one that has imported dsprune and DeepSpeed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])
    return context


def settle(**variables: str) -> None:
    """Make a process of the forkserver behave like a new one: its environment, and the start of other processes."""
    assert PRELOAD in sys.modules, "the forkserver could not import it, and does not tell"
    clean = environment() | variables
    os.environ.clear()
    os.environ.update(clean)
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.current_process().daemon = False  # data loaders start processes


class RankFailedError(Exception):
    """A rank raised an error, died or hung; the message holds its traceback."""


class RankPool:
    """Processes that form the worlds of 1, 2, ... `size` ranks, rank 0 first; a context manager.

    DeepSpeed uses the default group, so only a world of `size` ranks can train with it. Leave the pool after a failed
    run, because other ranks may wait for the failed one.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> RankPool:
        context = forkserver()
        self._folder = tempfile.TemporaryDirectory()
        store = (Path(self._folder.name) / "store").as_uri()
        pipes = [context.Pipe() for _ in range(self.size)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank, self.size, store), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that the pipe of a dead rank ends
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()  # ends _serve
        deadline = time.monotonic() + 5
        for process in self._processes:
            process.join(max(deadline - time.monotonic(), 0))
            process.kill()
            process.join()
        self._folder.cleanup()

    def run(self, world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Run `function(comm, *args)` on every rank of a world and return the results by rank.

        Args:
            world: number of ranks, at most `size`.
            function: pickled by name, so it must be at the top level of a module.
            args: its other arguments.

        Raises:
            RankFailedError: a rank failed; the message has the traceback of the first one.
        """
        for connection in self._connections[:world]:
            connection.send_bytes(pickle.dumps((world, function, args)))
        answers = [self._receive(rank) for rank in range(world)]
        if any(failed and answer == HUNG for failed, answer in answers):
            # The next run would receive the late answer.
            self.__exit__(None, None, None)
            self.__enter__()
        for rank, (failed, answer) in enumerate(answers):
            if failed:
                raise RankFailedError(f"rank {rank} of {world}:\n{answer}")
        return [answer for _, answer in answers]

    def _receive(self, rank: int) -> tuple[bool, Any]:
        connection = self._connections[rank]
        try:
            if connection.poll(TIMEOUT.total_seconds() + 10):
                failed, answer = pickle.loads(connection.recv_bytes())
                return failed, answer
        except EOFError:
            return True, f"died with exit code {self._processes[rank].exitcode}"
        return True, HUNG


def _serve(connection: Connection, rank: int, size: int, store: str) -> None:
    """Run what a rank receives until the pipe is closed."""
    from dsprune.zero.launch import (
        init_distributed,
    )  # DeepSpeed takes seconds, which the test process may not need

    torch.set_num_threads(1)
    settle(MASTER_ADDR="127.0.0.1")  # as from a launcher, for commands
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=TIMEOUT)
    init_distributed()  # so that an engine of a test does not compile DeepSpeed's collectives
    worlds = {world: dist.new_group(list(range(world))) for world in range(1, size + 1)}
    try:
        while True:
            world, function, args = pickle.loads(connection.recv_bytes())
            try:
                answer = (False, function(Comm(worlds[world]), *args))
            except BaseException:  # the test process shows it
                answer = (True, traceback.format_exc())
            connection.send_bytes(pickle.dumps(answer))
    except EOFError:
        dist.destroy_process_group()
