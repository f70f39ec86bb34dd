"""Gloo ranks for a test module: processes start once, then run the functions they are sent."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from dsprune.ranks.collectives import Comm

TIMEOUT = timedelta(seconds=180)


class RankFailedError(Exception):
    """A rank raised, died or hung; the message holds its traceback."""


class RankPool:
    """Processes that form the worlds of 1, 2, ... `size` ranks, rank 0 first.

    Used as a context manager. After a failed run, leave it: other ranks may wait for the one that failed.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> RankPool:
        # Each rank is a fork of one process, which has imported once what takes seconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["dsprune.train.train"])
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        pipes = [context.Pipe() for _ in range(self.size)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, rank, self.size, store.as_uri()), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that a dead rank ends its pipe
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
        """Runs `function(comm, *args)` on every rank of a world and returns the results by rank.

        The function is pickled by name: it must lie at the top of a module.

        Raises:
            RankFailedError: with what the first failed rank has to say.
        """
        for connection in self._connections[:world]:
            connection.send_bytes(pickle.dumps((world, function, args)))
        answers = [self._receive(rank) for rank in range(world)]
        for rank, (failed, answer) in enumerate(answers):
            if failed:
                raise RankFailedError(f"rank {rank} of {world}:\n{answer}")
        return [answer for _, answer in answers]

    def _receive(self, rank: int) -> tuple[bool, Any]:
        connection = self._connections[rank]
        try:
            if connection.poll(TIMEOUT.total_seconds() + 10):
                return pickle.loads(connection.recv_bytes())
        except EOFError:
            return True, f"died with exit code {self._processes[rank].exitcode}"
        return True, "gave no answer in time"


def _serve(connection: Connection, rank: int, size: int, store: str) -> None:
    """The life of a rank: runs what it is sent until the pipe is closed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=TIMEOUT)
    worlds = {world: dist.new_group(list(range(world))) for world in range(1, size + 1)}
    try:
        while True:
            world, function, args = pickle.loads(connection.recv_bytes())
            try:
                answer = (False, function(Comm(worlds[world]), *args))
            except BaseException:  # whatever it is, the test process shows it
                answer = (True, traceback.format_exc())
            connection.send_bytes(pickle.dumps(answer))
    except EOFError:
        dist.destroy_process_group()
