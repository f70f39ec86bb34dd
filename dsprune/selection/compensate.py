"""The selection of methods that score the weights of a block together, and move those that stay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.bits import unpack
from dsprune.masks.mask_set import MaskSet
from dsprune.masks.shared_blocks import Piece
from dsprune.methods.method import CompensatingMethod, Method, ShardContext
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.normalize import normalize
from dsprune.selection.scan import Scorer
from dsprune.selection.select import select

__all__ = ["Blocks", "block_bytes", "divided", "select_compensating"]

CHUNK = 20_000  # weights at a time, which bounds the memory: some matrices of 50 float64 numbers a weight
CHUNK_ACCELERATOR = 1 << 20


class Blocks:
    """The blocks of this rank's weights, those that it shares with other ranks included.

    Collective: every rank must create one.

    Args:
        accumulators: what the method keeps; has the shards and the blocks that ranks share.
        weight: returns this rank's weights of a tensor, `[shard.numel]`.
        settings: other fields of the contexts.
    """

    def __init__(
        self, accumulators: AccumulatorSet, weight: Callable[[int], Tensor], settings: Mapping[str, Any]
    ) -> None:
        self.shards, self.shared_blocks = accumulators.shards, accumulators.shared_blocks
        self._accumulators, self._weight, self._settings = accumulators, weight, settings
        self._weights = self.shared_blocks.exchange(weight)
        self._tables = accumulators.tables()

    def compute(self, result: Callable[[ShardContext], Tensor], bits: Sequence[Tensor]) -> list[Tensor]:
        """Return a float32 value for each weight of the shards, which `result` returns for the weights of a context.

        Collective: every rank must call this.
        """

        def kept(place: int) -> Tensor:
            return unpack(bits[place], self.shards[place].numel)

        table, device = self.shared_blocks.exchange(kept), self.shared_blocks.device
        chunk = CHUNK if device.type == "cpu" else CHUNK_ACCELERATOR
        found = [torch.empty(shard.numel, device=device) for shard in self.shards]
        for place, values in enumerate(found):
            own = kept(place)
            for piece in self.shared_blocks.pieces(place, chunk):
                context = self._context(place, piece, piece.complete(own, table) > 0)
                values[piece.here] = result(context)[piece.mine]
        return found

    def _context(self, place: int, piece: Piece, kept: Tensor) -> ShardContext:
        return ShardContext(
            tensor=self.shards[place].tensor,
            positions=piece.positions,
            weight=piece.complete(self._weight(place), self._weights),
            accumulators=self._accumulators.newest_of(place, piece, self._tables),
            kept=kept,
            **self._settings,
        )


def select_compensating(
    method: CompensatingMethod,
    blocks: Blocks,
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    comm: Comm,
    *,
    parts: int = 1,
    normalized: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the new packed masks and the new weights of this rank's shards. Collective: every rank must call this.

    The mask update is divided into `parts`, and the scores are computed again before each; if they are `normalized`,
    they are divided by the root mean square of their tensor's. Other arguments and errors are those of `select`.
    """
    masks = MaskSet(blocks.shards)
    masks.replace(kept)
    bits = list(kept)
    for part in divided(groups, masks.counts(comm), parts):
        scores = blocks.compute(method.scores, bits)
        scorers = [Scorer(values.__getitem__, method.absolute) for values in scores]
        if normalized:
            scorers = normalize(blocks.shards, scorers, blocks.shared_blocks.device, comm)
        bits = select(blocks.shards, scorers, bits, part, comm)
    return bits, blocks.compute(method.compensate, bits)


def block_bytes(method: type[Method], num_shared: int, num_tensors: int, parts: int = 1) -> tuple[int, int]:
    """Return the bytes that a rank sends for shared blocks: at a step that counts, and at a mask update of some parts.

    At a step these are what is added to the accumulators of products. At a mask update they are the weights, the
    accumulators, the mask before each part and at the end, and the number of zeros of each tensor.
    """
    summed = sum(kept.block > 1 for kept in method.accumulators)
    kept = sum(kept.width for kept in method.accumulators)
    one = 4 * method.block * num_shared
    return one * summed, one * (1 + kept + parts + 1) + 8 * num_tensors


def divided(groups: Sequence[Group], counts: Sequence[int], parts: int) -> Iterator[list[Group]]:
    """Yield the groups after each part of a mask update, which prunes the same share of the weights that are left.

    The groups have their zeros in the end, and `counts` the zeros of each tensor so far.

    Examples:
        >>> [[group.num_pruned for group in part] for part in divided([Group("w", (0,), 64, 56)], [0], 3)]
        [[32], [48], [56]]
    """
    for part in range(1, parts + 1):
        yield [replace(group, num_pruned=_num_pruned(group, counts, part / parts)) for group in groups]


def _num_pruned(group: Group, counts: Sequence[int], progress: float) -> int:
    """Return the zeros of a group on the way from its present number to that in the end."""
    present = group.num_weights - sum(counts[place] for place in group.tensors)
    final = group.num_weights - group.num_pruned
    left = group.rounded(present * (final / present) ** progress) if present else final
    return group.num_weights - left
