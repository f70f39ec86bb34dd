"""Blocks of neighbouring weights that several ranks share: each is given what it lacks, and computes the whole block.

`dsprune.selection.cut_bands` has the rank with the first weight decide alone, which sends less.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm

__all__ = ["Piece", "SharedBlocks", "num_shared"]


@dataclass(frozen=True)
class Piece:
    """Whole blocks of a tensor; this rank owns at least a part of them.

    Attributes:
        positions: flat index of each weight in the tensor.
        here: this rank's part of them, as a slice of its shard.
        mine: the same, as a slice of the piece.
        row: of the block in the tables of the shared blocks, if several ranks share it.
    """

    positions: range
    here: slice
    mine: slice
    row: int | None = None

    def complete(self, own: Tensor, table: Tensor) -> Tensor:
        """Return the values of the piece, from those of the shard and from a table of `SharedBlocks.exchange`."""
        return own[self.here] if self.row is None else table[self.row, : len(self.positions)]


class SharedBlocks:
    """The blocks that several ranks share. Collective: every rank must create one.

    Args:
        shards: this rank's slice of every tensor, in global order.
        block: number of weights of a block, which are consecutive in the flattened tensor.
        comm: the ranks over which the tensors are sharded.
        device: of the values.

    Attributes:
        shared: tensor and index of every such block, in global order.
    """

    def __init__(
        self, shards: Sequence[Shard], block: int, comm: Comm, device: torch.device | str = "cpu"
    ) -> None:
        self.block, self.device = block, torch.device(device)
        self._shards, self._comm = tuple(shards), comm
        everyone = comm.all_gather_objects([(shard.start, shard.start + shard.numel) for shard in shards])
        self.shared: list[tuple[int, int]] = []
        for place, shard in enumerate(shards):
            ends = {end for bounds in everyone for end in bounds[place] if end < shard.tensor.numel}
            self.shared += [(place, index) for index in sorted({end // block for end in ends if end % block})]
        self._cut: list[list[Piece]] = [[] for _ in shards]
        for row, (place, index) in enumerate(self.shared):
            if (piece := _piece(shards[place], index * block, (index + 1) * block, row)) is not None:
                self._cut[place].append(piece)

    def exchange(self, values: Callable[[int], Tensor], width: Sequence[int] = ()) -> Tensor:
        """Return a table of the shared blocks, `[blocks, block, *width]`, in float32.

        Collective: every rank must call this. This rank's values of a tensor are `[shard.numel, *width]`.
        """
        table = torch.zeros(len(self.shared), self.block, *width, device=self.device)
        for place, pieces in enumerate(self._cut):
            for piece in pieces:
                table[piece.row, piece.mine] = values(place)[piece.here].float()
        if self.shared:  # a weight is on one rank, and all others add zero
            table = self._comm.all_reduce_sum(table).to(self.device)
        return table

    def pieces(self, place: int, num_weights: int) -> Iterator[Piece]:
        """Yield the blocks of a shard, those that no other rank shares in pieces of about `num_weights`."""
        yield from self._cut[place]
        shard, block = self._shards[place], self.block
        stop = shard.start + shard.numel
        stop = stop if stop == shard.tensor.numel else stop // block * block
        step = max(1, num_weights // block) * block
        for start in range(-(-shard.start // block) * block, stop, step):
            if (piece := _piece(shard, start, min(start + step, stop))) is not None:
                yield piece


def num_shared(sizes: Sequence[int], block: int, world_size: int) -> int:
    """Return how many blocks ranks share at ZeRO stage 3, where each has an equal slice of every tensor.

    At stages 1 and 2 there are fewer: a rank's slice of all tensors together ends in one tensor.

    Examples:
        >>> num_shared([100, 99], block=50, world_size=4)  # cut at 25, 50 and 75
        4
    """
    return sum(
        len({end // block for end in range(slice_, size, slice_) if end % block})
        for size in sizes
        for slice_ in [-(-size // world_size)]
    )


def _piece(shard: Shard, start: int, stop: int, row: int | None = None) -> Piece | None:
    """Return the piece of a range of flat indices; None if the shard has no weight there."""
    stop = min(stop, shard.tensor.numel)
    low, high = max(start, shard.start), min(stop, shard.start + shard.numel)
    if low >= high:
        return None
    here, mine = slice(low - shard.start, high - shard.start), slice(low - start, high - start)
    return Piece(range(start, stop), here, mine, row)
