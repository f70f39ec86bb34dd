"""Ranks as threads of this process: collectives without new processes or sockets."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dsprune.ranks.collectives import Comm

__all__ = ["run_threads"]

T = TypeVar("T")


class _ThreadComm(Comm):
    """A rank that is a thread; the threads exchange tensors in a shared list."""

    def __init__(self, rank: int, board: list[Any], barrier: Barrier) -> None:
        super().__init__()
        self.rank, self.size = rank, len(board)
        self._board, self._barrier = board, barrier

    def _all_reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        everyones = torch.stack(self._everyones(self._message(tensor)))
        return everyones.amax(0) if operation == dist.ReduceOp.MAX else everyones.sum(0, dtype=tensor.dtype)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._everyones(self._message(tensor)))

    def all_to_all(self, messages: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        received = [sent[self.rank] for sent in self._everyones([*map(self._message, messages)])]
        assert [part.numel() for part in received] == list(sizes)
        return received

    def _everyones(self, item: T) -> list[T]:
        self._board[self.rank] = item
        self._barrier.wait()
        items = list(self._board)
        self._barrier.wait()
        return items


def run_threads(world: int, function: Callable[..., T], *args: Any) -> list[T]:
    """Run `function(comm, *args)` on every rank of a world of threads, and return the results by rank."""
    if world == 1:
        return [function(Comm(), *args)]
    board: list[Any] = [None] * world
    barrier = Barrier(world)

    def run(rank: int) -> T:
        try:
            return function(_ThreadComm(rank, board, barrier), *args)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world) as threads:
        return [future.result() for future in [threads.submit(run, rank) for rank in range(world)]]
