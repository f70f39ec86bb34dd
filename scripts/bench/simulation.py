"""Simulate one rank of thousands in a mask update: its own work is real, and the counts of the other ranks are drawn.

The ranks before this one and those after it are two simulated ranks that take part in every message. Their weights have
the distribution of the model's. A message needs only their counts, and the sum of the counts of many ranks is
multinomial. It is drawn bin by bin, so that finer histograms agree with coarser ones, and the total number of zeros is
exact.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from bench.drawn import DrawnScores, deviation
from bench.tools import used_memory
from dsprune.kernels.product import Product
from dsprune.masks.bits import count_kept
from dsprune.masks.mask_set import MaskSet
from dsprune.model.shard import PrunableTensor, Shard, equal_part
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.scan import Scorer
from dsprune.selection.select import select_from
from dsprune.selection.shard_scores import ShardScores

__all__ = ["MODELS", "Update", "shards_of", "simulate_update", "tensors_of"]


class Decoder(NamedTuple):
    """A transformer: number of blocks, and the shapes of a block's matrices."""

    blocks: int
    shapes: tuple[tuple[int, int], ...]


def decoder(blocks: int, hidden: int, wide: int, keys: int) -> Decoder:
    """Return a Llama: queries, keys, values, output, and three matrices of the feed-forward layer."""
    attention = (hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden)
    return Decoder(blocks, (*attention, (wide, hidden), (wide, hidden), (hidden, wide)))


MODELS = {
    "bert-base": Decoder(12, ((768, 768),) * 4 + ((3072, 768), (768, 3072))),
    "llama-8b": decoder(32, 4096, 14336, 1024),
    "llama-70b": decoder(80, 8192, 28672, 1024),
}


@dataclass(frozen=True)
class Update:
    """The cost of a mask update on one rank.

    Attributes:
        seconds: CPU time of the rank's own work.
        messages: number of all-reduces.
        sent: bytes sent in them; the same number is received.
        mask_bytes: the rank's masks.
        temporary_bytes: peak memory of the update, in addition to weights and masks.
        num_pruned: zeros of the rank, of the ranks before it and of the ranks after it.
    """

    seconds: float
    messages: int
    sent: int
    mask_bytes: int
    temporary_bytes: int
    num_pruned: tuple[int, int, int]


def tensors_of(model: str) -> list[PrunableTensor]:
    """Return the prunable tensors of a model."""
    blocks, shapes = MODELS[model]
    return [
        PrunableTensor(f"{block}.{place}", s) for block in range(blocks) for place, s in enumerate(shapes)
    ]


def shards_of(tensors: Sequence[PrunableTensor], rank: int, world: int) -> list[list[Shard]]:
    """Return the shards of the rank, the ranks before it and the ranks after it: equal parts, as at ZeRO stage 3."""
    own, before, after = [], [], []
    for tensor in tensors:
        start, numel = equal_part(tensor.numel, rank, world)
        stop = start + numel
        own.append(Shard(tensor, start, numel))
        before.append(Shard(tensor, 0, start))
        after.append(Shard(tensor, stop, tensor.numel - stop))
    return [own, before, after]


def simulate_update(
    tensors: Sequence[PrunableTensor], groups: Sequence[Group], rank: int, world: int, repeats: int = 1
) -> Update:
    """Run the mask update of one rank by magnitude, from a dense model, and measure its work `repeats` times."""
    parties = shards_of(tensors, rank, world)
    own = parties[0]
    weights = normal_weights(own, seed=rank)
    scorers = [Scorer(values.__getitem__, absolute=True, product=Product(values)) for values in weights]
    masks = MaskSet(own)
    meeting = Meeting(len(parties))
    comms = [MeetingComm(meeting, number) for number in range(len(parties))]

    def select_own(comm: Comm) -> list[Tensor]:
        return select_from(ShardScores(own, scorers, masks.bits, groups), own, groups, comm)

    def select_drawn(number: int) -> int:
        scores = DrawnScores(parties[number], groups, seed=number)
        return sum(int(pruned) for pruned in select_from(scores, parties[number], groups, comms[number]))

    bits, *drawn = meeting.hold(
        [partial(select_own, comms[0]), *(partial(select_drawn, each) for each in (1, 2))]
    )
    pruned = sum(shard.numel - count_kept(row) for shard, row in zip(own, bits, strict=True))
    seconds, temporary = zip(
        *(cost_of(partial(select_own, ReplayedComm(comms[0].totals))) for _ in range(repeats)), strict=True
    )
    return Update(
        seconds=min(seconds),
        messages=comms[0].num_messages,
        sent=comms[0].bytes_sent,
        mask_bytes=masks.nbytes,
        temporary_bytes=min(temporary) - masks.nbytes,
        num_pruned=(pruned, *drawn),
    )


def normal_weights(shards: Sequence[Shard], seed: int) -> list[Tensor]:
    """Return weights of the rank itself."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shard.numel, generator=generator).mul_(deviation(place))
        for place, shard in enumerate(shards)
    ]


def cost_of(work: Callable[[], object]) -> tuple[float, int]:
    """Return the CPU seconds and the peak memory of some work, including its result (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # so that all its memory is new to the process
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, start = used_memory(), time.thread_time()
    work()
    return time.thread_time() - start, used_memory("VmHWM") - before


class Meeting:
    """A place where threads sum their tensors."""

    def __init__(self, size: int) -> None:
        self.size, self.parts = size, [torch.empty(0)] * size
        self.barrier = threading.Barrier(size)

    def hold(self, works: Sequence[Callable[[], Any]]) -> list[Any]:
        """Return the results of some functions, one thread each; if one fails, the others do not wait for it."""

        def attend(work: Callable[[], Any]) -> Any:
            try:
                return work()
            except threading.BrokenBarrierError:
                return None  # the failed function gives the reason
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(attend, works))


class MeetingComm(Comm):
    """A rank whose peers are threads of this process."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        super().__init__()
        self._meeting, self.rank, self.size = meeting, rank, meeting.size
        self.totals: list[Tensor] = []

    def _all_reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        assert operation == dist.ReduceOp.SUM
        self.bytes_sent += tensor.nbytes
        self.num_messages += 1
        self._meeting.parts[self.rank] = tensor
        self._meeting.barrier.wait()
        self.totals.append(torch.stack(self._meeting.parts).sum(0))
        self._meeting.barrier.wait()  # before the next message replaces the parts
        return self.totals[-1]


class ReplayedComm(Comm):
    """A rank that receives the results of earlier messages, without peers."""

    def __init__(self, totals: Sequence[Tensor]) -> None:
        super().__init__()
        self._totals, self.size = iter(totals), 2

    def _all_reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        return next(self._totals)
