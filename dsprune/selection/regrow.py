"""The selection of methods that let weights grow back: prune more weights than needed, then regrow the best."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from dsprune.masks.bits import invert
from dsprune.model.shard import Shard
from dsprune.ranks.collectives import Comm
from dsprune.selection.groups import Group
from dsprune.selection.scan import Scorer
from dsprune.selection.select import select

__all__ = ["num_to_grow", "select_regrowing"]


def num_to_grow(group: Group, fraction: float) -> int:
    """Return the number of weights of a group that are dropped in addition and grow back."""
    return group.rounded(fraction * (group.num_weights - group.num_pruned))


def select_regrowing(
    shards: Sequence[Shard],
    scorers: Sequence[Scorer],
    growth: Sequence[Scorer],
    kept: Sequence[Tensor],
    groups: Sequence[Group],
    fraction: float,
    comm: Comm,
) -> list[Tensor]:
    """Return the new packed masks of this rank's shards. Collective: every rank must call this.

    Weights that were just dropped can grow back at once, and then keep their values. Growth is a selection too: it
    prunes all pruned weights again, except those with the highest growth scores.

    Args:
        shards: as for `select`.
        scorers: the scores by which weights are dropped.
        growth: the scores by which weights grow back, highest first.
        kept: as for `select`.
        groups: as for `select`, with the `num_pruned` after growth.
        fraction: fraction of the kept weights to drop and to grow.
        comm: as for `select`.

    Raises:
        UserError: as `select`.
    """
    numbers = [num_to_grow(group, fraction) for group in groups]
    dropping = [
        replace(group, num_pruned=group.num_pruned + number)
        for group, number in zip(groups, numbers, strict=True)
    ]
    left = select(shards, scorers, kept, dropping, comm)
    if not any(numbers):
        return left
    pruned = [invert(bits, shard.numel) for bits, shard in zip(left, shards, strict=True)]
    growing = [
        replace(group, num_pruned=group.num_weights - number)
        for group, number in zip(groups, numbers, strict=True)
    ]
    grown = select(shards, growth, pruned, growing, comm)
    return [bits | new for bits, new in zip(left, grown, strict=True)]
