"""The selection of methods that score the weights of a block together, and update the kept weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dsprune.masks.accumulator_set import AccumulatorSet
from dsprune.masks.bits import unpack_part
from dsprune.masks.cut_bands import slices_of
from dsprune.masks.mask_set import MaskSet
from dsprune.methods.method import CompensatingMethod, Method, ShardContext
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.normalize import normalize
from dsprune.selection.scan import Scorer
from dsprune.selection.select import select

__all__ = ["Blocks", "block_bytes", "divided", "select_compensating"]

CHUNK = 20_000  # weights at a time, to limit the memory: a weight takes some rows of 50 float64 numbers
CHUNK_ACCELERATOR = 1 << 20


class Blocks:
    """The blocks of this rank's weights. The rank where a block begins computes the whole block.

    Args:
        accumulators: the method's accumulators, and their shards.
        weight: returns this rank's weights of a tensor, `[shard.numel]`.
        settings: other fields of the contexts.
    """

    def __init__(
        self, accumulators: AccumulatorSet, weight: Callable[[int], Tensor], settings: Mapping[str, Any]
    ) -> None:
        self.shards, self.device = accumulators.shards, accumulators.device
        self._accumulators, self._settings = accumulators, settings
        self._weights = [weight(place).to(self.device) for place in range(len(self.shards))]

    def compute(self, result: Callable[[ShardContext], Tensor], bits: Sequence[Tensor]) -> list[Tensor]:
        """Return a float32 value for each weight of the shards; `result` computes the values of a context.

        Collective: every rank must call this.
        """
        cut = self._accumulators.cut_blocks
        chunk = CHUNK if self.device.type == "cpu" else CHUNK_ACCELERATOR
        rows = zip(
            self.shards,
            cut.heads,
            cut.complete([slices_of(weight) for weight in self._weights], chunk),
            cut.complete([partial(unpack_part, row) for row in bits], chunk),
            self._accumulators.newest_of_blocks(chunk),
            strict=True,
        )
        return cut.share(torch.cat([*self._results(result, *row)]) for row in rows)

    def _results(
        self,
        result: Callable[[ShardContext], Tensor],
        shard: Shard,
        head: int,
        weights: Iterator[Tensor],
        kept: Iterator[Tensor],
        sums: Iterator[dict[str, Tensor]],
    ) -> Iterator[Tensor]:
        """Yield the results for the blocks that begin in a shard, after `head` weights, some at a time."""
        yield torch.empty(0, device=self.device)  # so that every shard has a part
        first = shard.start + head
        for weight, mask, accumulated in zip(weights, kept, sums, strict=True):
            positions = range(first, first + len(weight))
            context = ShardContext(
                shard.tensor, positions, weight, kept=mask, accumulators=accumulated, **self._settings
            )
            yield result(context)
            first = positions.stop


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

    Args:
        method: gives the scores and the new weights.
        blocks: the weights of this rank.
        kept: as for `select`.
        groups: as for `select`, with the `num_pruned` after the last part.
        comm: as for `select`.
        parts: number of parts of the mask update; the scores are recomputed before each.
        normalized: whether scores are divided by the root mean square of their tensor's.

    Raises:
        UserError: as `select`.
    """
    masks = MaskSet(blocks.shards)
    masks.replace(kept)
    bits = list(kept)
    for part in divided(groups, masks.counts(comm), parts):
        scores = blocks.compute(method.scores, bits)
        scorers = [Scorer(values.__getitem__, method.absolute) for values in scores]
        if normalized:
            scorers = normalize(blocks.shards, scorers, blocks.device, comm)
        bits = select(blocks.shards, scorers, bits, part, comm)
    return bits, blocks.compute(method.compensate, bits)


def block_bytes(method: type[Method], num_tensors: int, parts: int = 1) -> tuple[int, int]:
    """Return the most bytes that a rank sends for cut blocks at a counted step, and at a mask update in parts.

    Less than a block of each tensor is exchanged. At a step, gradients are sent and products returned. At a mask
    update, weights, masks and accumulators are sent and results returned, once for the scores of each part and once
    for the new weights; the number of zeros of each tensor is sent too.
    """
    num_weights = num_tensors * (method.block - 1)
    summed = sum(4 + 4 * kept.width for kept in method.accumulators if kept.block > 1)
    computed = 4 + 1 + method.bytes_per_weight() + 4
    return num_weights * summed, num_weights * computed * (parts + 1) + 8 * num_tensors


def divided(groups: Sequence[Group], counts: Sequence[int], parts: int) -> Iterator[list[Group]]:
    """Yield the groups after each part of a mask update; each part prunes the same fraction of the kept weights.

    `groups` have the number of zeros after the last part, and `counts` the zeros of each tensor so far.

    Examples:
        >>> [[group.num_pruned for group in part] for part in divided([Group("w", (0,), 64, 56)], [0], 3)]
        [[32], [48], [56]]
    """
    for part in range(1, parts + 1):
        yield [replace(group, num_pruned=_num_pruned(group, counts, part / parts)) for group in groups]


def _num_pruned(group: Group, counts: Sequence[int], progress: float) -> int:
    """Return the number of zeros of a group after a part, between its present and its final number."""
    present = group.num_weights - sum(counts[place] for place in group.tensors)
    final = group.num_weights - group.num_pruned
    left = group.rounded(present * (final / present) ** progress) if present else final
    return group.num_weights - left
